// Preloaded into a process, this keeps it from setting TCP_NODELAY: its sockets keep Nagle's algorithm.
#define _GNU_SOURCE
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

int setsockopt(int socket, int level, int option, const void *value, socklen_t length) {
    if (level == IPPROTO_TCP && option == TCP_NODELAY) return 0;
    return (int)syscall(SYS_setsockopt, socket, level, option, value, length);
}
