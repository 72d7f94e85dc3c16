//! Whom a role believes about hardware: files with makers' roots, and activators by their keys.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use darkbloom_client::{ActivatorKind, HardwareTrust, MEASUREMENTS_BYTES_MAX, Measurements, Roots};

use crate::error::Failure;
use crate::files;

/// Largest file of roots: all makers of TPMs together have under a hundred, of 2 KiB each.
const ROOTS_BYTES_MAX: u64 = 1 << 20;

/// An activator's public key: 130 hex digits of an uncompressed point on P-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActivatorKey(pub [u8; 65]);

impl FromStr for ActivatorKey {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let mut key = [0; 65];
        let point = hex::decode_to_slice(text, &mut key).is_ok() && key[0] == 4;
        if point {
            Ok(Self(key))
        } else {
            Err("an activator's key is 130 hex digits that begin with 04, as the activator prints it".to_owned())
        }
    }
}

/// Reads files with certificates in PEM.
pub fn roots(files: &[PathBuf]) -> Result<Roots, Failure> {
    let mut roots = Roots::default();
    for path in files {
        let unusable = |why: String| {
            let hint = "name files with certificates in PEM, as makers of TPMs publish them";
            Failure::new(format!("cannot use the roots in {}: {why}", path.display()), hint)
        };
        let text = files::read_text(path, ROOTS_BYTES_MAX).map_err(unusable)?;
        roots.extend(Roots::read_pem(&text).map_err(|error| unusable(error.to_string()))?);
    }
    Ok(roots)
}

/// Reads what may run on providers' machines; without a file nothing is accepted.
fn measurements(file: Option<&Path>) -> Result<Measurements, Failure> {
    let Some(path) = file else { return Ok(Measurements::default()) };
    let unusable = |why: String| {
        let hint = "write it as `docs/policy.md` shows under \"Accepted releases\"";
        Failure::new(format!("cannot use the accepted releases in {}: {why}", path.display()), hint)
    };
    let text = files::read_text(path, MEASUREMENTS_BYTES_MAX as u64).map_err(unusable)?;
    Measurements::parse(&text).map_err(|error| unusable(error.to_string()))
}

/// What a client believes: these roots, these activators as independent ones, and what this file says may run.
pub fn hardware(
    files: &[PathBuf],
    activators: &[ActivatorKey],
    accepted: Option<&Path>,
) -> Result<HardwareTrust, Failure> {
    let activators = activators.iter().map(|key| (key.0, ActivatorKind::Independent)).collect();
    let (tpm_roots, measurements) = (Arc::new(roots(files)?), Arc::new(measurements(accepted)?));
    Ok(HardwareTrust { tpm_roots, activators, measurements, ..HardwareTrust::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_activators_key_is_a_point() {
        let digits = format!("04{}", "ab".repeat(64));
        assert_eq!(digits.parse::<ActivatorKey>().unwrap().0[..2], [4, 0xab]);
        for wrong in ["", "04ab", &digits.replacen("04", "02", 1), &digits.replace("ab", "zz"), &format!("{digits}00")]
        {
            assert!(wrong.parse::<ActivatorKey>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_file_without_certificates_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("roots.pem");
        assert!(roots(std::slice::from_ref(&file)).is_err(), "no such file");
        for wrong in ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            std::fs::write(&file, wrong).unwrap();
            let failure = roots(std::slice::from_ref(&file)).err().unwrap();
            assert!(format!("{failure:?}").contains("roots.pem"), "{failure:?}");
        }
        assert!(roots(&[]).unwrap().is_empty());
    }
}
