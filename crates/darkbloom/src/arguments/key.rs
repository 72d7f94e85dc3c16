//! Options of commands on identity keys, and where these may live.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use darkbloom_provider::Home;
use darkbloom_provider::keys::AccessGroup;

/// Options of `key`.
#[derive(Debug, Args)]
pub struct Key {
    /// What to do.
    #[command(subcommand)]
    pub action: KeyAction,
}

/// What can be done with the identity key.
#[derive(Debug, Subcommand)]
pub enum KeyAction {
    /// Show where it lives and what it is.
    Show(KeyPlace),
    /// Sign with it, and see that the signature verifies.
    Test(KeyPlace),
    /// Make a new key and have this one sign that it takes over. This one is removed once the coordinator has accepted the new
    /// one. The provider must not run meanwhile.
    Rotate {
        /// Where.
        #[command(flatten)]
        place: KeyPlace,
        /// Where the new key is made; by default where the old one is.
        #[arg(long, value_name = "secure_enclave|tpm|software")]
        to: Option<Home>,
        /// Go back to the key from before, as long as the coordinator has not accepted the new one.
        #[arg(long, conflicts_with = "to")]
        back: bool,
    },
    /// Encrypt the keys in the files of a folder that lie in the open, under the bytes of `--key-secret`: a coordinator's and an
    /// activator's too. A role that is told of a secret takes no key that lies in the open, since anybody may have put it there.
    /// It must not run meanwhile.
    Seal(KeyPlace),
    /// Remove it, from the TPM or the keychain too. The next start makes a new identity.
    Delete {
        /// Where.
        #[command(flatten)]
        place: KeyPlace,
        /// Do it.
        #[arg(long)]
        yes: bool,
    },
}

/// Where an identity key is.
#[derive(Debug, Args)]
pub struct KeyPlace {
    /// The folder of identity and receipts.
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// Where keys may live.
    #[command(flatten)]
    pub keys: KeyOptions,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Where keys may live.
#[derive(Debug, Clone, Default, Args)]
pub struct KeyOptions {
    /// Where a new identity key may be made, best first; by default in the Secure Enclave, else in the TPM, else in a file.
    #[arg(long = "key-home", value_name = "secure_enclave|tpm|software", value_delimiter = ',')]
    pub key_homes: Vec<Home>,
    /// The TPM: the kernel's device, or a socket behind which one speaks; by default /dev/tpmrm0.
    #[arg(long, value_name = "PATH")]
    pub tpm: Option<PathBuf>,
    /// Registers that a new key in the TPM is bound to: it signs only while they have the values that they have then.
    #[arg(long, value_name = "PCR", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(..24))]
    pub key_pcrs: Vec<u32>,
    /// A file whose bytes, 16 to 4,096 of them, encrypt a key in a file: a credential of systemd, a Kubernetes secret, or one on
    /// a volume that is not always there. A key that lies in the open is refused then:
    /// `darkbloom key seal` encrypts one.
    #[arg(long, value_name = "FILE")]
    pub key_secret: Option<PathBuf>,
    /// For development only: the keychain access group of a program that another team signed, whose keys no release can use.
    #[arg(long, value_name = "GROUP")]
    pub enclave_access_group: Option<AccessGroup>,
}
