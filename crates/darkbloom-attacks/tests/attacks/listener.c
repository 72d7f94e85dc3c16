/* Preloaded into a process, keeps a copy of all that it writes, and takes its own name out of the variables. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

__attribute__((constructor)) static void hide(void) { unsetenv("LD_PRELOAD"); }

ssize_t write(int to, const void *bytes, size_t count) {
    const char *path = getenv("COPY_TO");
    int copy = path ? open(path, O_WRONLY | O_APPEND | O_CREAT, 0666) : -1;
    if (copy >= 0) {
        syscall(SYS_write, copy, bytes, count);
        close(copy);
    }
    return syscall(SYS_write, to, bytes, count);
}
