//! Attacks on private keys in a provider's memory by whoever reads all of it.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;

use darkbloom_attacks::attacks;
use darkbloom_harden::SecretPages;
use darkbloom_keys::{IdentityKey as _, SoftwareKey};
use darkbloom_seal::Epoch;
use darkbloom_types::Digest;
use darkbloom_wire::{ChallengeProof, Signer as _};
use hpke::kem::XWing;
use hpke::{Kem as _, Serializable as _};

use crate::forge::{NETWORK, NOW};
use crate::process::{SOMEBODY, leaving_out, left_out, role};
use crate::sealing::Scene;

/// What a scan must find, or it was none.
const MARKER: &[u8] = b"what everybody may read";
/// Bytes that are read at once.
const BLOCK: usize = 1 << 20;

/// Secrets that attacker and victim both know, without either having them in a program.
fn secret(number: u8) -> [u8; 32] {
    Digest::of(&[b"a secret of the victim", &[number]]).0
}

/// What an epoch's keys are made of, in this order.
struct Secrets(u8);

impl rand_core::TryRng for Secrets {
    type Error = std::convert::Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok(7)
    }
    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(7)
    }
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Self::Error> {
        self.0 += 1;
        out.copy_from_slice(&secret(self.0)[..out.len()]);
        Ok(())
    }
}
impl rand_core::TryCryptoRng for Secrets {}

/// A process that has a provider's keys and uses each of them once. It closes itself to nobody: what is shown is what the
/// pages are worth alone, against whoever may read any memory.
pub fn victim(without: &str, folder: &Path) {
    let said = leaving_out(without, || {
        let pages = darkbloom_harden::secret_pages();
        let identity = SoftwareKey::open(&folder.join("identity.key")).unwrap();
        let epoch = Epoch::begin_kept(identity.public_point(), NOW, &mut Secrets(0), &SecretPages);
        let receipt_key = epoch.receipt_key();
        ChallengeProof { digest: Digest([1; 32]) }.sign(&*receipt_key).unwrap();
        darkbloom_types::scrub_stack();
        identity.sign(b"anything").unwrap();
        let mut scene = Scene::in_epoch(epoch, NETWORK, NOW);
        assert!(scene.opens(NOW));
        (pages, identity, receipt_key, scene)
    });
    let marker = MARKER.to_vec();
    println!("ready {}", if said.0.is_ok() { "secret" } else { "ordinary" });
    std::io::stdout().flush().unwrap();
    // Until the test is over.
    let _ = std::io::stdin().read_line(&mut String::new());
    drop((said, marker));
}

/// Looks through all memory of a process that it can read, and says what it found.
pub fn attacker(pid: &str) {
    let sealing = XWing::derive_keypair(&secret(1)).0.to_bytes().to_vec();
    let identity = secret(9);
    // Arithmetic has the lowest digits first.
    let reversed: Vec<u8> = identity.iter().rev().copied().collect();
    let wanted = [
        ("marker", MARKER.to_vec()),
        ("sealing", sealing),
        ("receipt", secret(2).to_vec()),
        ("identity", identity.to_vec()),
        ("identity", reversed),
        ("identity", digits(&identity).into_bytes()),
    ];
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut block = vec![0; BLOCK];
    for line in maps.lines() {
        let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let (mut at, to) = (u64::from_str_radix(from, 16).unwrap(), u64::from_str_radix(to, 16).unwrap());
        while at < to {
            let length = BLOCK.min(usize::try_from(to - at).unwrap());
            let Ok(read @ 1..) = memory.read_at(&mut block[..length], at) else { break };
            for (name, bytes) in &wanted {
                if block[..read].windows(bytes.len()).any(|window| window == bytes) {
                    println!("found {name}");
                }
            }
            // Blocks overlap, so that nothing is cut in two.
            at += if at + read as u64 >= to { read } else { read - 64 } as u64;
        }
    }
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Which keys an attacker finds in the memory of a process that has them.
fn found() -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let file = folder.path().join("identity.key");
    fs::write(&file, format!("darkbloom-p256-v1 {}\n", digits(&secret(9)))).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    if rustix::process::getuid().is_root() {
        let somebody = SOMEBODY.parse().unwrap();
        std::os::unix::fs::chown(&file, Some(somebody), Some(somebody)).unwrap();
    }
    let mut child = role(&format!("keys {} {}", left_out(), folder.path().display())).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let ready = lines.find_map(|line| line.split_once("ready ").map(|(_, said)| said.to_owned())).unwrap();
    let scan = role(&format!("scan {}", child.id())).output().unwrap();
    // It ends with what it reads.
    drop(child.stdin.take());
    child.wait().unwrap();
    let said = String::from_utf8(scan.stdout).unwrap();
    let mut found: Vec<_> =
        said.lines().filter_map(|line| line.split_once("found ")).map(|(_, name)| name.to_owned()).collect();
    found.sort_unstable();
    found.dedup();
    let marker = found.iter().position(|name| name == "marker").expect("the scan reads the process");
    found.remove(marker);
    if ready == "ordinary" && left_out() != "secret_pages" {
        println!("SKIPPED: this kernel gives no secret pages, and the process says so");
        return Vec::new();
    }
    found
}

attacks! {
    attack_a_private_key_is_found_in_memory against "secret_pages": || {
        let found = found();
        assert!(found.is_empty() || found == ["identity", "receipt", "sealing"], "all or none: {found:?}");
        !found.is_empty()
    };
}
