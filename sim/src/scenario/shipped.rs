//! The scenarios that come with the program, in the program.

/// A scenario that comes with the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shipped {
    /// Its name.
    pub name: &'static str,
    /// Its text.
    pub text: &'static str,
}

macro_rules! shipped {
    ($($name:literal)+) => {
        &[$( Shipped { name: $name, text: include_str!(concat!("../../scenarios/", $name, ".toml")) } ),+]
    };
}

/// All of them.
pub const fn shipped() -> &'static [Shipped] {
    shipped!(
        "hello" "churn" "islands" "slow-link" "lossy-bulk" "datagrams" "thundering-herd" "wan" "sites" "flood" "sybil" "eclipse"
        "cold-boot" "flash" "covert-flash" "censor" "degraded" "relay-island" "upgrade" "power-cut" "repair" "services" "breaker" "batches" "last-values" "copies" "copies-worn" "copies-lost" "copies-short" "scale"
    )
}
