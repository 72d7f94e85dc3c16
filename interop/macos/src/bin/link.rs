//! What a provider does with its key, as a program by itself: linked to see that nothing is asked of macOS but what
//! `frameworks` names. Where it runs it says whether this Mac can have a key.

#![forbid(unsafe_code)]

use std::path::PathBuf;

use darkbloom_keys::{Home, Identity, KeyConfig, availability, delete};

fn main() {
    println!("{:#?}", darkbloom_harden::close());
    let mut words = std::env::args().skip(1);
    let (folder, config) = (words.next().map(PathBuf::from).unwrap_or_default(), KeyConfig::default());
    println!("{:#?}", availability(Home::SecureEnclave, &folder, &config));
    match words.next().as_deref() {
        Some("open") => {
            println!("{:?}", Identity::open(&folder, &config).map(|(identity, passed)| (identity.where_made(), passed)))
        }
        Some("delete") => println!("{:?}", delete(&folder, &config)),
        _ => {}
    }
}
