//! The scripts that Redis runs atomically, and the names of keys and channels.

use std::{fmt, str::FromStr, sync::LazyLock};

use redis::{Cmd, Script, cmd};

/// The version of the format of keys, entries and messages. Replicas with different versions share nothing, and do not disturb each other.
const VERSION: u32 = 1;

macro_rules! scripts {
    ($($name:ident = $file:literal;)*) => {
        $(pub(super) static $name: Source = Source {
            text: include_str!($file),
            hash: LazyLock::new(|| Script::new(include_str!($file)).get_hash().to_owned()),
        };)*
    };
}

scripts! {
    LOAD = "load.lua";
    LEASE = "lease.lua";
    LEFT = "left.lua";
    RENEW = "renew.lua";
    RELEASE = "release.lua";
    SAVE = "save.lua";
    PROBE = "probe.lua";
    UNITS = "units.lua";
    NAME = "name.lua";
}

pub(super) struct Source {
    text: &'static str,
    hash: LazyLock<String>,
}

impl Source {
    /// EVALSHA: runs the script if Redis has cached it.
    pub(super) fn by_hash(&self, keys: &Keys, arguments: &[&[u8]]) -> Cmd {
        command("EVALSHA", &self.hash, keys, arguments)
    }

    /// EVAL: runs the script and has Redis cache it on the node that owns the keys. (`SCRIPT LOAD` would need all nodes of a cluster.)
    pub(super) fn in_full(&self, keys: &Keys, arguments: &[&[u8]]) -> Cmd {
        command("EVAL", self.text, keys, arguments)
    }
}

fn command(name: &str, script: &str, keys: &Keys, arguments: &[&[u8]]) -> Cmd {
    let mut command = cmd(name);
    command.arg(script).arg(keys.0.len()).arg(&keys.0).arg(arguments);
    command
}

/// The keys of a feed: its hash, its lease, and the probe's key. The hash tag in braces puts them into one slot of a cluster.
#[derive(Clone, Debug)]
pub(super) struct Keys([String; 3]);

/// The prefix of all keys and channels: `--store-prefix`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix(String);

/// A text that is not a [`Prefix`].
#[derive(Debug, thiserror::Error)]
#[error("a prefix has 1 to 64 characters of ASCII: letters, digits, and any of - _ . : /")]
pub struct InvalidPrefix;

impl Default for Prefix {
    fn default() -> Self {
        Self("plaque".into())
    }
}

impl FromStr for Prefix {
    type Err = InvalidPrefix;

    fn from_str(text: &str) -> Result<Self, InvalidPrefix> {
        // Braces would change the slot of a cluster.
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte);
        if (1..=64).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidPrefix)
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Prefix {
    /// The keys of the feed with this [`tag`].
    pub(super) fn keys(&self, tag: &str) -> Keys {
        let key = format!("{self}:{VERSION}:{{{tag}}}");
        Keys([key.clone(), format!("{key}:lease"), format!("{key}:probe")])
    }

    pub(super) fn channel(&self, name: &str) -> String {
        format!("{self}:{VERSION}:{name}")
    }
}
