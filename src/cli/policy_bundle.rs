//! `gatewayctl policy build|sign|verify|inspect`: OPA bundles, packed and signed.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::json;

use crate::cli::output::{Exit, Paint};
use crate::policy::bundle::pack::{self, Contents};
use crate::policy::bundle::signature::{self, Exclude, FILE_NAME, Signer, Verification, VerificationKey};

/// Pack policies and data into a bundle, after compiling them and their tests.
#[derive(Debug, clap::Args)]
pub struct BuildArgs {
    /// Directories, files and bundles to pack; tests are checked and left out.
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// The bundle to write.
    #[arg(short, long, value_name = "FILE", default_value = "bundle.tar.gz")]
    pub output: PathBuf,
    /// The revision its manifest tells.
    #[arg(short, long, value_name = "REVISION")]
    pub revision: Option<String>,
    /// Pack `*_test.rego` and `*.case.yaml` as well, so that the gateway runs them before the bundle goes live.
    #[arg(long)]
    pub with_tests: bool,
    #[command(flatten)]
    signing: SigningArgs,
}

/// Sign a bundle: writes `.signatures.json` beside its files.
#[derive(Debug, clap::Args)]
pub struct SignArgs {
    /// The bundle: a directory, or a packed bundle, which is written anew.
    #[arg(value_name = "BUNDLE")]
    pub bundle: PathBuf,
    #[command(flatten)]
    signing: SigningArgs,
}

/// How to sign.
#[derive(Debug, clap::Args)]
struct SigningArgs {
    /// Sign with this private key: a PEM file, or a file with the secret for an HS algorithm.
    #[arg(long, value_name = "FILE")]
    signing_key: Option<PathBuf>,
    /// The algorithm of the key.
    #[arg(long, value_name = "ALG", default_value = "RS256")]
    signing_alg: String,
    /// The id by which verifiers know the key.
    #[arg(long, value_name = "ID")]
    signing_key_id: Option<String>,
    /// What the signature is for.
    #[arg(long, value_name = "SCOPE")]
    scope: Option<String>,
}

/// Verify a bundle's signature; exits with 2 if it is not good.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// The bundle: a directory or a packed bundle.
    #[arg(value_name = "BUNDLE")]
    pub bundle: PathBuf,
    /// The public key: a PEM file, or a file with the secret for an HS algorithm.
    #[arg(long, value_name = "FILE")]
    pub verification_key: PathBuf,
    /// The algorithm of the key.
    #[arg(long, value_name = "ALG", default_value = "RS256")]
    pub signing_alg: String,
    /// The scope the signature must state.
    #[arg(long, value_name = "SCOPE")]
    pub scope: Option<String>,
    /// A pattern of files that need not be signed; may be repeated.
    #[arg(long = "exclude-files-verify", value_name = "PATTERN")]
    pub exclude: Vec<String>,
}

/// Show what is in a bundle: manifest, packages, files.
#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// The bundle: a directory or a packed bundle.
    #[arg(value_name = "BUNDLE")]
    pub bundle: PathBuf,
    /// How to report.
    #[arg(short, long, value_enum, default_value_t = InspectFormat::Pretty)]
    pub format: InspectFormat,
}

/// How to show a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum InspectFormat {
    /// For people.
    Pretty,
    /// One object.
    Json,
}

/// Packs a bundle.
pub fn build(args: &BuildArgs, notes: &mut dyn Write) -> anyhow::Result<Exit> {
    pack::check(&args.paths)?;
    let mut contents = Contents::read(&args.paths, args.with_tests)?;
    if let Some(revision) = &args.revision {
        contents.set_revision(revision).context("the manifest is not valid JSON")?;
    }
    if let Some(signer) = args.signing.signer()? {
        contents.sign(&signer)?;
    }
    write_archive(&contents, &args.output)?;
    writeln!(notes, "{} files in {}", contents.len(), args.output.display())?;
    Ok(Exit::Fine)
}

/// Signs a bundle where it is.
pub fn sign(args: &SignArgs, notes: &mut dyn Write) -> anyhow::Result<Exit> {
    let Some(signer) = args.signing.signer()? else {
        bail!("no key to sign with; give one with `--signing-key FILE`");
    };
    let mut contents = Contents::read_all(&args.bundle)?;
    if args.bundle.is_dir() {
        let path = args.bundle.join(FILE_NAME);
        replace(&path, contents.signature(&signer)?.as_bytes())?;
        writeln!(notes, "Signed {} files in {}", contents.len(), path.display())?;
    } else {
        contents.sign(&signer)?;
        write_archive(&contents, &args.bundle)?;
        writeln!(notes, "Signed {}", args.bundle.display())?;
    }
    Ok(Exit::Fine)
}

/// Verifies a bundle's signature.
pub fn verify(args: &VerifyArgs, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let algorithm = signature::algorithm(&args.signing_alg)?;
    let key = VerificationKey::new(algorithm, &read_key(&args.verification_key)?, None)
        .with_context(|| format!("`{}`", args.verification_key.display()))?;
    // Whatever the signature calls its key, this one must have made it.
    let id = args.verification_key.display().to_string();
    let verification = Verification {
        keys: [(id.clone(), key)].into(),
        key_id: Some(id),
        scope: args.scope.clone(),
        exclude: Exclude::new(args.exclude.iter().map(String::as_str))?,
    };
    let contents = Contents::read_all(&args.bundle)?;
    match contents.verify(&verification) {
        Ok(()) => {
            writeln!(out, "{}: good signature", args.bundle.display())?;
            Ok(Exit::Fine)
        }
        Err(faults) => {
            for fault in faults {
                writeln!(out, "{fault}")?;
            }
            Ok(Exit::No)
        }
    }
}

/// Shows what is in a bundle.
pub fn inspect(args: &InspectArgs, paint: Paint, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let summary = Contents::read_all(&args.bundle)?.summary();
    match args.format {
        InspectFormat::Json => {
            let shown = json!({
                "manifest": summary.manifest,
                "signed": summary.signed,
                "namespaces": summary.namespaces,
            });
            writeln!(out, "{shown:#}")?;
        }
        InspectFormat::Pretty => {
            writeln!(out, "{}", paint.strong("MANIFEST"))?;
            for (key, value) in summary.manifest.as_object().into_iter().flatten() {
                writeln!(out, "  {key}: {value}")?;
            }
            writeln!(out, "  signed: {}", summary.signed)?;
            writeln!(out, "{}", paint.strong("NAMESPACES"))?;
            for (namespace, files) in &summary.namespaces {
                writeln!(out, "  {namespace}: {}", files.join(", "))?;
            }
        }
    }
    Ok(Exit::Fine)
}

// === impl SigningArgs ===

impl SigningArgs {
    fn signer(&self) -> anyhow::Result<Option<Signer>> {
        let Some(path) = &self.signing_key else { return Ok(None) };
        let algorithm = signature::algorithm(&self.signing_alg)?;
        let mut signer =
            Signer::new(algorithm, &read_key(path)?).with_context(|| format!("`{}`", path.display()))?;
        signer.key_id.clone_from(&self.signing_key_id);
        signer.scope.clone_from(&self.scope);
        Ok(Some(signer))
    }
}

fn read_key(path: &Path) -> anyhow::Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn write_archive(contents: &Contents, path: &Path) -> anyhow::Result<()> {
    let mut packed = Vec::new();
    contents.pack(&mut packed)?;
    replace(path, &packed)
}

/// Writes a whole file or leaves the old one: a gateway may be watching it.
fn replace(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    fs::write(&new, bytes)
        .and_then(|()| fs::rename(&new, path))
        .with_context(|| format!("cannot write `{}`", path.display()))
}
