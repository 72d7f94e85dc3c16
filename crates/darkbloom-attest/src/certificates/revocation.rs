//! Lists of certificates that their maker took back (RFC 5280, section 5).

use x509_cert::crl::CertificateList;

use super::*;

/// A list: read, and its bytes as received.
#[derive(Debug, Clone)]
pub(crate) struct RevocationList {
    parsed: CertificateList<Raw>,
    signed: Vec<u8>,
}

impl RevocationList {
    pub(crate) fn read(der: &[u8]) -> Result<Self, ChainError> {
        let parsed = CertificateList::<Raw>::from_der(der).map_err(|_| ChainError::Malformed)?;
        // One that has only what changed, or speaks for others too, says so in a critical extension.
        let entries = parsed.tbs_cert_list.revoked_certificates.iter().flatten();
        let of_entries = entries.filter_map(|entry| entry.crl_entry_extensions.as_ref());
        let mut extensions = parsed.tbs_cert_list.crl_extensions.iter().chain(of_entries).flatten();
        if extensions.any(|extension| extension.critical) {
            return Err(ChainError::Critical);
        }
        if parsed.tbs_cert_list.signature != parsed.signature_algorithm {
            return Err(ChainError::Malformed);
        }
        Ok(Self { signed: signed_part(der)?, parsed })
    }

    /// That `issuer` wrote this list, that it counts now, and that the certificate is not on it.
    pub(crate) fn clears(
        &self,
        certificate: &Certificate,
        issuer: &Certificate,
        now: UnixMillis,
    ) -> Result<(), ChainError> {
        let list = &self.parsed.tbs_cert_list;
        let named = list.issuer.to_der().map_err(|_| ChainError::Malformed)?;
        let algorithm = &self.parsed.signature_algorithm;
        let verifies = || {
            let (kind, key) = issuer.key()?;
            verify(kind, key, algorithm, &self.signed, self.parsed.signature.as_bytes()?)
        };
        if armed!("revocation_list") && (named != issuer.subject()? || verifies().is_none()) {
            return Err(ChainError::List);
        }
        let now = Duration::from_millis(u64::try_from(now.0).map_err(|_| ChainError::ListTime)?);
        let until = list.next_update.as_ref().ok_or(ChainError::ListTime)?;
        if armed!("revocation_time") && (now < list.this_update.to_unix_duration() || now > until.to_unix_duration()) {
            return Err(ChainError::ListTime);
        }
        let serial = certificate.parsed.tbs_certificate().serial_number();
        let mut revoked = list.revoked_certificates.iter().flatten();
        if armed!("revoked") && revoked.any(|entry| entry.serial_number == *serial) {
            return Err(ChainError::Revoked);
        }
        Ok(())
    }

    /// Until when it counts; nothing where it does not say.
    pub(crate) fn until(&self) -> Option<UnixMillis> {
        let until = self.parsed.tbs_cert_list.next_update.as_ref()?.to_unix_duration();
        i64::try_from(until.as_millis()).ok().map(UnixMillis)
    }
}
