//! What a provider's process needs of its machine, from flags and file, before it has a second thread: everything else is
//! out of its reach from then on.

use std::path::PathBuf;

use darkbloom_harden::{Needs, Report, confine};
use darkbloom_provider::{EvidenceConfig, KeyConfig};
use reqwest::Url;

use crate::arguments::{EvidenceOptions, KeyOptions, Start};
use crate::error::Failure;
use crate::roles::{default_data, evidence_config, key_config};
use crate::settings::ProviderSettings;

/// Names may be asked for by TCP where an answer is too long for UDP (RFC 7766).
const DNS_PORT: u16 = 53;
/// Where certificates are named that are believed beside the system's, and proxies on the way to activators.
const CERTIFICATES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];
const PROXIES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];

/// Confines this process to what a provider needs.
pub fn of_provider(options: &Start, settings: &ProviderSettings) -> Result<Report, Failure> {
    let role = if options.local { "local" } else { "provider" };
    let data = options.data.clone().or_else(|| settings.data.clone()).unwrap_or_else(|| default_data(role));
    // A rule is about a folder that is there.
    std::fs::create_dir_all(&data).map_err(|error| {
        Failure::new(
            format!("cannot create {}: {error}", data.display()),
            "check the folder's permissions, or choose another with `--data`",
        )
    })?;
    let adapters = if options.adapters.is_empty() { &settings.adapters } else { &options.adapters };
    let models = if options.model.is_empty() { &settings.model } else { &options.model };
    let mut read: Vec<PathBuf> = models.iter().chain(adapters.iter().map(|adapter| &adapter.path)).cloned().collect();
    read.extend(CERTIFICATES.iter().filter_map(std::env::var_os).map(PathBuf::from));
    let activators = if options.activators.is_empty() { &settings.activators } else { &options.activators };
    let coordinator = options.coordinator.as_ref().or(settings.coordinator.as_ref());
    let proxies = PROXIES.iter().filter_map(|name| std::env::var(name).ok()).map(with_scheme);
    let addresses = coordinator.into_iter().chain(activators).cloned().chain(proxies);
    let mut connect = vec![DNS_PORT];
    connect.extend(addresses.filter_map(|address| Url::parse(&address).ok()?.port_or_known_default()));
    let keys = key_config(options.keys.clone(), settings)?;
    let EvidenceConfig { tpm_log, tsm, snp_certificates, tdx_collateral } =
        evidence_config(options.evidence.clone(), settings)?;
    read.extend(snp_certificates.into_iter().chain([tpm_log]).chain(keys.secret));
    connect.extend(tdx_collateral.port_or_known_default().filter(|_| tsm.is_dir()));
    // It says what it is.
    read.extend(std::env::current_exe().ok());
    Ok(confine(&Needs { read, write: vec![data, keys.tpm, tsm], connect, listens: options.local }))
}

/// The address of a proxy, which may be written without a scheme, as `proxy:3128`.
fn with_scheme(proxy: String) -> String {
    if proxy.contains("://") { proxy } else { format!("http://{proxy}") }
}

/// Confines `doctor` as a provider would be: what it sees is what a provider can use.
pub fn of_doctor(settings: &ProviderSettings) -> Result<Report, Failure> {
    let KeyConfig { tpm, .. } = key_config(KeyOptions::default(), settings)?;
    let EvidenceConfig { tpm_log, tsm, .. } = evidence_config(EvidenceOptions::default(), settings)?;
    Ok(confine(&Needs { read: vec![tpm_log], write: vec![tpm, tsm], ..Needs::default() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_of_a_proxy_is_found_however_it_is_written() {
        let port = |proxy: &str| Url::parse(&with_scheme(proxy.to_owned())).ok()?.port_or_known_default();
        let written =
            ["proxy:3128", "http://proxy:3128", "user:word@proxy:3128", "proxy", "https://proxy", "10.0.0.1:81"];
        assert_eq!(written.map(port), [Some(3128), Some(3128), Some(3128), Some(80), Some(443), Some(81)]);
    }
}
