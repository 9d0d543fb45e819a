//! Making bundles: packing, signing, and telling what is in one.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde_json::{Map, Value as Json, json};

use super::{
    Kind, MANIFEST, Purpose, archive,
    files::{self, Budget, File},
    is_own_file, kind_of,
    signature::{self, SignError, Signer, Verification},
};
use crate::policy::manifest::Manifest;
use crate::rego::{
    fault::{BundleErrors, Fault},
    program::{Module, Options, package_of},
    v0::RegoVersion,
};

/// The files of a bundle, to be packed, signed, verified or shown.
#[derive(Debug)]
pub struct Contents {
    files: Vec<File>,
    root: String,
}

/// What a bundle says of itself.
#[derive(Debug)]
pub struct Summary {
    /// Its manifest, empty if it has none.
    pub manifest: Json,
    /// Whether it carries a signature.
    pub signed: bool,
    /// Files by the package, or the data path, they define.
    pub namespaces: BTreeMap<String, Vec<String>>,
}

impl Contents {
    /// Reads directories, archives and single files. Of directories only what OPA's layout knows is taken, tests left out
    /// unless `with_tests`.
    pub fn read(paths: &[PathBuf], with_tests: bool) -> Result<Self, BundleErrors> {
        let wants = |name: &str| match kind_of(name) {
            Kind::Policy | Kind::Json | Kind::Yaml => true,
            Kind::Test | Kind::Cases => with_tests,
            Kind::Other => false,
        };
        Self::gather(paths, &wants)
    }

    /// Reads all files of one bundle, whether they mean anything or not.
    pub fn read_all(bundle: &Path) -> Result<Self, BundleErrors> {
        Self::gather(&[bundle.to_owned()], &|_| true)
    }

    fn gather(paths: &[PathBuf], wants: files::Wants<'_>) -> Result<Self, BundleErrors> {
        let mut budget = Budget::default();
        let mut faults = Vec::new();
        let mut contents = Vec::new();
        for path in paths {
            let name = files::file_name(path);
            let read = match fs::metadata(path) {
                Err(error) => Err(files::unreadable(path, &error)),
                Ok(metadata) if metadata.is_dir() => {
                    Ok(files::read_directory(path, wants, &mut budget, &mut faults))
                }
                Ok(_) if archive::is_archive(&name) => archive::read_archive(path, &mut budget),
                Ok(_) => files::read_file(path, vec![name], &mut budget).map(|file| vec![file]),
            };
            match read {
                Ok(files) => contents.extend(files),
                Err(fault) => faults.push(fault),
            }
        }
        contents.sort_by(|left, right| left.inside.cmp(&right.inside));
        faults.extend(contents.windows(2).filter_map(|pair| match pair {
            [first, second] if first.inside == second.inside => Some(clash(first, second)),
            _ => None,
        }));
        let root = paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
        if faults.is_empty() { Ok(Self { files: contents, root }) } else { Err(faults.into()) }
    }

    /// Says the revision in the manifest, which is made if there is none. A signature no longer holds and is taken out.
    pub fn set_revision(&mut self, revision: &str) -> Result<(), serde_json::Error> {
        self.files.retain(|file| file.name() != signature::FILE_NAME);
        let position = self.files.iter().position(|file| file.name() == MANIFEST);
        let written = position.and_then(|index| self.files.get(index));
        let mut manifest: Map<String, Json> =
            written.map_or_else(|| Ok(Map::new()), |file| serde_json::from_slice(&file.bytes))?;
        manifest.insert("revision".to_owned(), json!(revision));
        manifest.entry("rego_version").or_insert(json!(1));
        let bytes = serde_json::to_vec(&manifest)?;
        match position.and_then(|index| self.files.get_mut(index)) {
            Some(file) => file.bytes = bytes,
            None => self.files.insert(0, own(MANIFEST, bytes)),
        }
        Ok(())
    }

    /// The text of a signature over all files.
    pub fn signature(&self, signer: &Signer) -> Result<String, SignError> {
        signer.sign(&self.files)
    }

    /// Adds a signature over all files, or replaces the one there is.
    pub fn sign(&mut self, signer: &Signer) -> Result<(), SignError> {
        let text = self.signature(signer)?;
        self.files.retain(|file| file.name() != signature::FILE_NAME);
        self.files.insert(0, own(signature::FILE_NAME, text.into_bytes()));
        Ok(())
    }

    /// Whether the bundle's signature is good.
    pub fn verify(&self, verification: &Verification) -> Result<(), Vec<Fault>> {
        verification.verify(&self.files, &self.root)
    }

    /// The archive, the same bytes for the same files.
    pub fn pack(&self, out: impl Write) -> io::Result<()> {
        let names: Vec<String> = self.files.iter().map(File::name).collect();
        let files = names.iter().zip(&self.files);
        archive::pack(files.map(|(name, file)| (name.as_str(), file.bytes.as_slice())), out)
    }

    /// What is in it.
    pub fn summary(&self) -> Summary {
        let find = |name: &str| self.files.iter().find(|file| file.name() == name);
        let manifest = find(MANIFEST).and_then(|file| serde_json::from_slice(&file.bytes).ok());
        let versions = find(MANIFEST).and_then(|file| {
            let text = std::str::from_utf8(&file.bytes).ok()?;
            Manifest::parse(&file.shown, text).ok()
        });
        let mut namespaces: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for file in self.files.iter().filter(|file| !is_own_file(&file.name())) {
            let version = versions.as_ref().and_then(|versions| versions.version_of(&file.name()).ok()?);
            if let Some(namespace) = namespace(file, version.unwrap_or_default()) {
                namespaces.entry(namespace).or_default().push(file.name());
            }
        }
        Summary {
            manifest: manifest.unwrap_or_else(|| json!({})),
            signed: find(signature::FILE_NAME).is_some(),
            namespaces,
        }
    }

    /// How many files it has.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }
}

/// Compiles what would be packed, with its tests, so that no broken bundle leaves the house.
pub fn check(paths: &[impl AsRef<Path>]) -> Result<(), BundleErrors> {
    super::load(paths, Purpose::Develop)?.compile_with_tests(Options::developing()).map(|_| ())
}

fn own(name: &str, bytes: Vec<u8>) -> File {
    File { inside: vec![name.to_owned()], shown: name.to_owned(), bytes }
}

fn clash(first: &File, second: &File) -> Fault {
    let place = crate::rego::fault::Place::whole(second.shown.as_str());
    let message = format!("would be `{}` in the bundle, and so would {}", second.name(), first.shown);
    Fault::new(place, "duplicate_file", message).hint("give the directory above both")
}

/// What a file defines: `data.a.b` for a package or for data mounted there.
fn namespace(file: &File, version: RegoVersion) -> Option<String> {
    let path = match kind_of(file.base_name()) {
        Kind::Policy | Kind::Test => {
            let text = String::from_utf8(file.bytes.clone()).ok()?;
            package_of(&Module { path: file.shown.clone(), text }, version)?
        }
        Kind::Json | Kind::Yaml => file.inside.split_last().map(|(_, above)| above.to_vec())?,
        Kind::Cases | Kind::Other => return None,
    };
    Some(["data".to_owned()].into_iter().chain(path).collect::<Vec<_>>().join("."))
}
