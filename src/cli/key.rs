//! `gatewayctl key new`: makes an API key, prints it once, and appends only its hash to the keys file.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;

use crate::base::clock::{Clock as _, SystemClock};
use crate::identity::api_key::mint::{self, Grant};

/// Make an API key: prints it once, appends only its hash to the keys file.
#[derive(Debug, clap::Args)]
pub struct NewArgs {
    /// Who holds the key: the identity's subject.
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub owner: String,
    /// A role of the owner; may be repeated.
    #[arg(long = "role", value_name = "ROLE", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub roles: Vec<String>,
    /// A group of the owner; may be repeated.
    #[arg(long = "group", value_name = "GROUP", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub groups: Vec<String>,
    /// A scope of the key; may be repeated.
    #[arg(long = "scope", value_name = "SCOPE", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub scopes: Vec<String>,
    /// When the key ends, RFC 3339, such as 2027-01-01T00:00:00Z. Default: never.
    #[arg(long, value_name = "TIME")]
    pub expires: Option<jiff::Timestamp>,
    /// The keys file; created, readable by its owner alone, if it is absent.
    #[arg(long, value_name = "FILE", default_value = "keys.yaml")]
    pub keys: PathBuf,
    /// How to print the key.
    #[arg(long, value_enum, default_value_t = KeyFormat::Text)]
    pub format: KeyFormat,
}

/// How to print a new key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum KeyFormat {
    /// The key alone.
    Text,
    /// An object with key, id, owner and keys file.
    Json,
}

/// Runs the command. The key goes to `out`, what to know about it to `notes`.
pub fn new(args: &NewArgs, out: &mut dyn Write, notes: &mut dyn Write) -> anyhow::Result<()> {
    let grant = Grant {
        owner: args.owner.clone(),
        roles: args.roles.clone(),
        groups: args.groups.clone(),
        scopes: args.scopes.clone(),
        expires: args.expires,
    };
    let keys = args.keys.display();
    let minted = grant.check(SystemClock.now()).and_then(|()| mint::mint(&args.keys, &grant));
    let minted = minted.with_context(|| format!("no key was added to `{keys}`"))?;
    let key = minted.key.expose();
    let answer = match args.format {
        KeyFormat::Text => key.clone(),
        KeyFormat::Json => serde_json::json!({
            "id": minted.id, "key": key, "keys": args.keys, "owner": args.owner,
        })
        .to_string(),
    };
    writeln!(out, "{answer}").and_then(|()| out.flush()).with_context(|| {
        format!("the key was not shown and is lost; remove `{}` from `{keys}` and make another", minted.id)
    })?;
    writeln!(notes, "Added `{}` to {keys}. The key is shown only this once: keep it safe.", minted.id)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::identity::api_key::keys_file;

    #[derive(Debug, clap::Parser)]
    struct Command {
        #[command(flatten)]
        args: NewArgs,
    }

    fn args(keys: &std::path::Path, rest: &[&str]) -> NewArgs {
        let keys = keys.to_str().unwrap();
        let words = [&["new", "--owner", "acme", "--keys", keys], rest].concat();
        Command::try_parse_from(words).unwrap().args
    }

    #[test]
    fn the_key_goes_to_stdout_and_its_hash_to_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.yaml");
        let (mut out, mut notes) = (Vec::new(), Vec::new());
        let args = args(&path, &["--role", "a", "--role", "b", "--expires", "2027-01-01T00:00:00Z"]);
        new(&args, &mut out, &mut notes).unwrap();
        let key = String::from_utf8(out).unwrap();
        assert!(key.starts_with("pst_") && key.ends_with('\n'));
        assert!(!String::from_utf8(notes).unwrap().contains(key.trim()));
        let records = keys_file::load(&path).unwrap();
        assert_eq!(records[0].roles, ["a", "b"]);
        assert_eq!(records[0].expires.unwrap().as_secs(), 1_798_761_600);
    }

    #[test]
    fn json_names_all_there_is_to_know() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.yaml");
        let mut out = Vec::new();
        new(&args(&path, &["--format", "json"]), &mut out, &mut Vec::new()).unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(answer["owner"], "acme");
        assert_eq!(answer["id"], keys_file::load(&path).unwrap()[0].id);
        assert!(answer["key"].as_str().unwrap().starts_with("pst_"));
    }

    #[test]
    fn an_owner_is_needed() {
        assert!(Command::try_parse_from(["new"]).is_err());
        assert!(Command::try_parse_from(["new", "--owner", ""]).is_err());
    }

    #[test]
    fn names_that_would_be_misread_and_ends_in_the_past_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.yaml");
        let refused = |rest: &[&str]| {
            let mut args = args(&path, rest);
            if rest.is_empty() {
                args.owner = "acme\nroles: [admin]".to_owned();
            }
            let error = new(&args, &mut Vec::new(), &mut Vec::new()).unwrap_err();
            assert!(!path.exists());
            format!("{error:#}")
        };
        assert!(refused(&[]).contains(r#"the owner "acme\nroles: [admin]" has a control character"#));
        assert!(refused(&["--role", "a\u{7f}"]).contains("the role"));
        assert!(refused(&["--group", " a"]).contains("the group"));
        assert!(refused(&["--scope", "a\tb"]).contains("the scope"));
        assert!(refused(&["--expires", "2020-01-01T00:00:00Z"]).contains("is not in the future"));
    }

    #[test]
    fn a_faulty_file_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.yaml");
        std::fs::write(&path, "keys: 7\n").unwrap();
        let mut out = Vec::new();
        assert!(new(&args(&path, &[]), &mut out, &mut Vec::new()).is_err());
        assert!(out.is_empty());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "keys: 7\n");
    }
}
