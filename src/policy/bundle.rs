//! Reads bundles from directories, archives and single files, by OPA's layout.
//!
//! `*.rego` anywhere, `data.json|yaml|yml` at the path of its directory, `.manifest` at the root.
//! Nothing outside that layout is read, every fault is reported at once, and a bundle that does not
//! keep to its own manifest or signature is refused.

mod archive;
mod canonical;
mod delta;
mod files;
pub mod pack;
pub mod signature;

use std::{collections::BTreeSet, fs, path::Path, sync::Arc};

use aws_lc_rs::digest;
use regorus::Value;

use self::{
    files::{Budget, File},
    signature::Verification,
};
use super::{
    data::{self, Documents},
    manifest::Manifest,
};
use crate::rego::{
    fault::{BundleErrors, Fault, Place},
    program::{self, Module, Options, Program},
    v0::RegoVersion,
};

const MANIFEST: &str = ".manifest";

/// What a bundle is loaded for.
#[derive(Debug, Clone, Copy)]
pub enum Purpose<'a> {
    /// To decide requests: it must be signed as is asked for, and not signed where nothing is.
    Serve(Option<&'a Verification>),
    /// To test, check or try it; signatures are not looked at.
    Develop,
}

/// Modules and data as they were read, not yet compiled.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// The manifest's revision, or else a short hash of the content.
    pub revision: String,
    /// Modules that decide.
    pub modules: Vec<Module>,
    /// Modules of `*_test.rego` files, which never decide.
    pub tests: Vec<Module>,
    /// `*.case.yaml` files.
    pub case_files: Vec<CaseFile>,
    /// The merged base documents.
    pub data: Value,
    /// The paths of the modules that are written in Rego v0.
    pub v0: Arc<BTreeSet<String>>,
}

/// One file of cases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaseFile {
    /// The path messages name it by.
    pub path: String,
    /// Its text, YAML.
    pub text: String,
}

impl Bundle {
    /// Compiles what decides, without the tests.
    pub fn compile(&self, options: Options) -> Result<Program, BundleErrors> {
        program::compile(&self.modules, self.data.clone(), self.versions(options))
    }

    /// Compiles everything, tests included.
    pub fn compile_with_tests(&self, options: Options) -> Result<Program, BundleErrors> {
        let modules: Vec<Module> = self.modules.iter().chain(&self.tests).cloned().collect();
        program::compile(&modules, self.data.clone(), self.versions(options))
    }

    /// `options` with which Rego each module is written in.
    pub(super) fn versions(&self, options: Options) -> Options {
        Options { v0: Arc::clone(&self.v0), ..options }
    }
}

/// Loads directories, archives and single files into one bundle.
pub fn load(paths: &[impl AsRef<Path>], purpose: Purpose<'_>) -> Result<Bundle, BundleErrors> {
    load_as(paths, purpose, RegoVersion::V1)
}

/// As [`load`]; where no manifest says otherwise, files are written in `version`.
pub fn load_as(
    paths: &[impl AsRef<Path>],
    purpose: Purpose<'_>,
    version: RegoVersion,
) -> Result<Bundle, BundleErrors> {
    let mut reader = Reader { version, ..Reader::new(purpose) };
    for path in paths {
        reader.read_root(path.as_ref());
    }
    reader.finish()
}

/// A fetched bundle: an archive, and the deltas that change it.
#[derive(Debug, Clone, Copy)]
pub struct Packed<'a, D> {
    /// The archive.
    pub bytes: &'a [u8],
    /// What messages call it.
    pub shown: &'a str,
    /// Delta bundles, in their order.
    pub deltas: &'a [D],
}

/// Loads a bundle that is in memory.
pub fn load_packed(
    packed: &Packed<'_, impl AsRef<[u8]>>,
    purpose: Purpose<'_>,
) -> Result<Bundle, BundleErrors> {
    let mut reader = Reader::new(purpose);
    let files = archive::unpack(packed.bytes, packed.shown, &mut reader.budget);
    let manifest = reader.take_archive(packed.shown, files);
    for delta in packed.deltas {
        // After a fault there is nothing that could be changed.
        if reader.faults.is_empty() {
            reader.take_delta(packed.shown, delta.as_ref(), manifest.as_ref());
        }
    }
    reader.finish()
}

/// Whether a packed bundle is a delta. One that cannot be read is none.
pub fn is_delta(packed: &[u8]) -> bool {
    archive::unpack(packed, "", &mut Budget::default()).is_ok_and(|files| delta::is_delta(&files))
}

struct Reader<'a> {
    purpose: Purpose<'a>,
    modules: Vec<Module>,
    tests: Vec<Module>,
    case_files: Vec<CaseFile>,
    v0: BTreeSet<String>,
    /// Of files that no manifest speaks of.
    version: RegoVersion,
    documents: Documents,
    revisions: Vec<String>,
    hash: digest::Context,
    budget: Budget,
    faults: Vec<Fault>,
}

impl<'a> Reader<'a> {
    fn new(purpose: Purpose<'a>) -> Self {
        Self {
            purpose,
            modules: Vec::new(),
            tests: Vec::new(),
            case_files: Vec::new(),
            v0: BTreeSet::new(),
            version: RegoVersion::V1,
            documents: Documents::default(),
            revisions: Vec::new(),
            hash: digest::Context::new(&digest::SHA256),
            budget: Budget::default(),
            faults: Vec::new(),
        }
    }

    fn fault(&mut self, file: &str, code: &'static str, message: impl Into<String>, hint: &str) {
        self.faults.push(Fault::new(Place::whole(file), code, message).hint(hint));
    }

    fn read_root(&mut self, root: &Path) {
        let shown = root.display().to_string();
        let name = files::file_name(root);
        match fs::metadata(root) {
            Err(error) => self.faults.push(files::unreadable(root, &error)),
            Ok(metadata) if metadata.is_dir() => {
                // A signature speaks of all files, whether they mean anything or not.
                let signed = root.join(signature::FILE_NAME).exists();
                let wants = |name: &str| signed || kind_of(name) != Kind::Other;
                let files = files::read_directory(root, &wants, &mut self.budget, &mut self.faults);
                drop(self.take_bundle(&shown, &files));
            }
            Ok(_) if archive::is_archive(&name) => {
                let files = archive::read_archive(root, &mut self.budget);
                drop(self.take_archive(&shown, files));
            }
            Ok(_) if kind_of(&name) == Kind::Other => {
                let hint = "give a directory, a bundle.tar.gz, a .rego file, or a data.json";
                self.fault(&shown, "not_a_policy", "is neither policy nor data", hint);
            }
            Ok(_) => match files::read_file(root, vec![name], &mut self.budget) {
                Ok(file) => self.take_file(&file),
                Err(fault) => self.faults.push(fault),
            },
        }
    }

    fn take_archive(&mut self, shown: &str, files: Result<Vec<File>, Fault>) -> Option<Manifest> {
        match files {
            Ok(files) if delta::is_delta(&files) => {
                let message = "is a delta bundle, and there is no bundle that it could change";
                self.fault(shown, "delta_bundle", message, "serve a whole bundle");
                None
            }
            Ok(files) => self.take_bundle(shown, &files),
            Err(fault) => {
                self.faults.push(fault);
                None
            }
        }
    }

    fn take_delta(&mut self, shown: &str, packed: &[u8], base: Option<&Manifest>) {
        if let Purpose::Serve(Some(_)) = self.purpose {
            let hint = "a delta cannot be signed; serve whole bundles";
            self.fault(shown, "unsigned_delta", "is a delta bundle, and bundles must be signed", hint);
            return;
        }
        let files = archive::unpack(packed, shown, &mut self.budget).map_err(|fault| vec![fault]);
        let changed = files.and_then(|files| delta::apply(&files, shown, base, self.documents.data_mut()));
        match changed {
            Ok(revision) => {
                // A revision speaks of the whole, so without one of its own the delta makes the bundle's untrue.
                self.take_hash("", packed);
                self.revisions = revision.into_iter().collect();
            }
            Err(faults) => self.faults.extend(faults),
        }
    }

    /// All files of one directory or archive, which its signature and its manifest speak of. Gives the manifest.
    fn take_bundle(&mut self, root: &str, files: &[File]) -> Option<Manifest> {
        if let Err(faults) = self.verify(root, files) {
            self.faults.extend(faults);
            return None;
        }
        let manifest = files.iter().find(|file| file.name() == MANIFEST);
        let manifest = manifest.and_then(|file| self.take_manifest(file));
        let (modules, tests) = (self.modules.len(), self.tests.len());
        let documents = self.documents.len();
        for file in files.iter().filter(|file| !is_own_file(&file.name())) {
            match manifest.as_ref().map(|manifest| manifest.version_of(&file.name())) {
                Some(Ok(version)) => self.take_file_as(file, version.unwrap_or(self.version)),
                Some(Err(message)) => {
                    self.fault(&file.shown, "ambiguous_version", message, "let one pattern match each file");
                }
                None => self.take_file(file),
            }
        }
        let manifest = manifest?;
        let fresh = self.modules.iter().skip(modules).chain(self.tests.iter().skip(tests));
        self.faults.extend(manifest.check_packages(fresh, &self.v0));
        self.faults.extend(manifest.check_data(self.documents.since(documents)));
        self.revisions.extend(manifest.revision.clone());
        Some(manifest)
    }

    fn verify(&self, root: &str, files: &[File]) -> Result<(), Vec<Fault>> {
        let Purpose::Serve(verification) = self.purpose else { return Ok(()) };
        if let Some(verification) = verification {
            return verification.verify(files, root);
        }
        let signature = files.iter().find(|file| file.name() == signature::FILE_NAME);
        // As OPA: whoever signs a bundle does not mean it to be taken on trust.
        signature.map_or(Ok(()), |file| {
            let fault = Fault::new(
                Place::whole(file.shown.as_str()),
                "signed",
                "bundle is signed, and no key is configured",
            );
            Err(vec![fault.hint("configure `signing` for the policy, or serve the bundle unsigned")])
        })
    }

    fn take_manifest(&mut self, file: &File) -> Option<Manifest> {
        let text = self.text_of(file)?;
        self.take_hash(MANIFEST, text.as_bytes());
        match Manifest::parse(&file.shown, &text) {
            Ok(manifest) => Some(manifest),
            Err(faults) => {
                self.faults.extend(faults);
                None
            }
        }
    }

    fn text_of(&mut self, file: &File) -> Option<String> {
        let text = String::from_utf8(file.bytes.clone());
        if text.is_err() {
            self.fault(&file.shown, "not_text", "is not UTF-8", "save it as UTF-8");
        }
        text.ok()
    }

    fn take_file(&mut self, file: &File) {
        self.take_file_as(file, self.version);
    }

    fn take_file_as(&mut self, file: &File, version: RegoVersion) {
        let kind = kind_of(file.base_name());
        if kind == Kind::Other {
            return;
        }
        let Some(text) = self.text_of(file) else { return };
        self.take_hash(&file.name(), text.as_bytes());
        let shown = file.shown.clone();
        if version == RegoVersion::V0 && matches!(kind, Kind::Policy | Kind::Test) {
            self.v0.insert(shown.clone());
        }
        match kind {
            Kind::Policy => self.modules.push(Module { path: shown, text }),
            Kind::Test => self.tests.push(Module { path: shown, text }),
            Kind::Cases => self.case_files.push(CaseFile { path: shown, text }),
            Kind::Json | Kind::Yaml => {
                let mount = file.inside.split_last().map_or(&[][..], |(_, directories)| directories);
                let parsed = data::parse(&shown, &text, kind == Kind::Yaml);
                match parsed.and_then(|value| self.documents.mount(&shown, mount, value)) {
                    Ok(()) => {}
                    Err(fault) => self.faults.push(fault),
                }
            }
            Kind::Other => {}
        }
    }

    // Names and lengths are hashed as well, so that moving bytes between files changes the hash.
    fn take_hash(&mut self, name: &str, bytes: &[u8]) {
        self.hash.update(&(name.len() as u64).to_be_bytes());
        self.hash.update(name.as_bytes());
        self.hash.update(&(bytes.len() as u64).to_be_bytes());
        self.hash.update(bytes);
    }

    fn finish(mut self) -> Result<Bundle, BundleErrors> {
        if self.faults.is_empty()
            && self.modules.is_empty()
            && self.tests.is_empty()
            && self.case_files.is_empty()
        {
            let place = Place::whole("policy");
            let fault = Fault::new(place, "empty_bundle", "no .rego file found");
            self.faults.push(fault.hint("give the directory that holds the policies"));
        }
        if !self.faults.is_empty() {
            return Err(self.faults.into());
        }
        let revision = if self.revisions.is_empty() {
            let digest = self.hash.finish();
            let start =
                digest.as_ref().iter().take(6).fold(0_u64, |start, byte| start << 8 | u64::from(*byte));
            format!("{start:012x}")
        } else {
            self.revisions.join("+")
        };
        Ok(Bundle {
            revision,
            modules: self.modules,
            tests: self.tests,
            case_files: self.case_files,
            data: self.documents.into_data(),
            v0: Arc::new(self.v0),
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Policy,
    Test,
    Cases,
    Json,
    Yaml,
    Other,
}

fn kind_of(name: &str) -> Kind {
    const ENDINGS: [(&str, Kind); 3] =
        [("_test.rego", Kind::Test), (".rego", Kind::Policy), (".case.yaml", Kind::Cases)];
    match name {
        "data.json" => Kind::Json,
        "data.yaml" | "data.yml" => Kind::Yaml,
        _ => ENDINGS.iter().find(|(ending, _)| name.ends_with(ending)).map_or(Kind::Other, |(_, kind)| *kind),
    }
}

/// Whether a file at the root says something of the bundle itself.
fn is_own_file(name: &str) -> bool {
    matches!(name, MANIFEST | signature::FILE_NAME)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(files: &[(&str, &str)]) -> (tempfile::TempDir, Result<Bundle, BundleErrors>) {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let loaded = load(&[root.path()], Purpose::Serve(None));
        (root, loaded)
    }

    #[track_caller]
    fn codes(files: &[(&str, &str)], want: &[&str]) {
        let (_root, loaded) = bundle(files);
        let errors = loaded.expect_err("refused");
        let got: Vec<&str> = errors.faults().iter().map(|fault| fault.code).collect();
        assert_eq!(got, want, "{errors}");
    }

    const POLICY: (&str, &str) = ("p.rego", "package a\np := 1\n");

    #[test]
    fn layout_is_opas() {
        let (_root, loaded) = bundle(&[
            ("a/p.rego", "package a\np := 1\n"),
            ("a/p_test.rego", "package a_test\ntest_p if data.a.p == 1\n"),
            ("data.json", r#"{"top": 1}"#),
            ("b/c/data.yaml", "x: [1, 2]\n"),
            ("b/other.json", r#"{"ignored": true}"#),
            ("b/data.yml", "y: 2\n"),
            ("a/one.case.yaml", "request: {}\n"),
            (".hidden/q.rego", "not rego"),
        ]);
        let loaded = loaded.unwrap();
        assert_eq!((loaded.modules.len(), loaded.tests.len(), loaded.case_files.len()), (1, 1, 1));
        let want = Value::from_json_str(r#"{"top": 1, "b": {"y": 2, "c": {"x": [1, 2]}}}"#).unwrap();
        assert_eq!(loaded.data, want);
        assert_eq!(loaded.revision.len(), 12);
        assert!(loaded.compile(Options::default()).is_ok());
        assert!(loaded.compile_with_tests(Options::default()).is_ok());
    }

    #[test]
    fn serving_programs_know_no_tests() {
        let (_root, loaded) = bundle(&[POLICY, ("p_test.rego", "package a\ntest_p if p == 1\n")]);
        let loaded = loaded.unwrap();
        let names =
            |program: Program| program.entrypoints().iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(names(loaded.compile(Options::default()).unwrap()), ["data.a.p"]);
        assert_eq!(
            names(loaded.compile_with_tests(Options::default()).unwrap()),
            ["data.a.p", "data.a.test_p"]
        );
    }

    #[test]
    fn manifests_are_enforced() {
        let manifest = |text| (".manifest", text);
        let (_root, loaded) =
            bundle(&[POLICY, manifest(r#"{"revision": "r7", "roots": ["a"], "rego_version": 1}"#)]);
        assert_eq!(loaded.unwrap().revision, "r7");
        codes(&[POLICY, manifest(r#"{"roots": ["b"]}"#)], &["outside_roots"]);
        codes(&[POLICY, manifest(r#"{"roots": ["a", "a/b"]}"#)], &["overlapping_roots"]);
        codes(&[POLICY, manifest(r#"{"rego_version": 2}"#)], &["bad_manifest"]);
        codes(&[POLICY, manifest(r#"{"file_rego_versions": {"/p.rego": "v0"}}"#)], &["bad_manifest"]);
        codes(&[POLICY, manifest(r#"{"file_rego_versions": {"/*": 0, "/p*": 1}}"#)], &["ambiguous_version"]);
        codes(
            &[POLICY, manifest(r#"{"wasm": [{"entrypoint": "a/p", "module": "/policy.wasm"}]}"#)],
            &["wasm"],
        );
        codes(&[POLICY, manifest("{")], &["bad_manifest"]);
        codes(&[POLICY, manifest(r#"{"roots": ["a"]}"#), ("data.json", r#"{"b": 1}"#)], &["outside_roots"]);
        let inside = [manifest(r#"{"roots": ["a/b"]}"#), ("data.json", r#"{"a": {"b": {"c": 1}}}"#)];
        let (_root, loaded) = bundle(&[("p.rego", "package a.b.d\n"), inside[0], inside[1]]);
        assert!(loaded.is_ok(), "{loaded:?}");
        codes(&[("p.rego", "package a.b.d\n"), inside[0], ("data.json", r#"{"a": 1}"#)], &["outside_roots"]);
        codes(&[("p.rego", "package ab.c\n"), inside[0]], &["outside_roots"]);
    }

    #[test]
    fn all_faults_are_reported_at_once_with_their_files() {
        codes(
            &[
                ("a/data.json", "{"),
                ("b/data.yaml", "a: [1"),
                ("c/data.json", "[1]"),
                ("data.json", r#"{"d": 1}"#),
                ("d/data.json", r#"{"x": 1}"#),
            ],
            &["bad_data", "bad_data", "bad_data", "data_conflict"],
        );
    }

    #[test]
    fn a_signed_bundle_needs_a_key() {
        codes(&[POLICY, (".signatures.json", "{}")], &["signed"]);
    }

    #[test]
    fn the_same_path_twice_is_a_conflict_unless_objects_merge() {
        let same = |left, right| [POLICY, ("x/data.json", left), ("x/data.yaml", right)];
        codes(&same(r#"{"k": 1}"#, "k: 2\n"), &["data_conflict"]);
        codes(&same(r#"{"k": 1}"#, "k: 1\n"), &["data_conflict"]);
        let (_root, loaded) = bundle(&same(r#"{"k": {"a": 1}}"#, "k: {b: 2}\n"));
        assert_eq!(loaded.unwrap().data, Value::from_json_str(r#"{"x": {"k": {"a": 1, "b": 2}}}"#).unwrap());
    }

    #[test]
    fn kubernetes_mounts_load_each_file_once() {
        let root = tempfile::tempdir().unwrap();
        let real = root.path().join("..2024_01_01");
        fs::create_dir(&real).unwrap();
        fs::write(real.join("p.rego"), POLICY.1).unwrap();
        std::os::unix::fs::symlink("..2024_01_01", root.path().join("..data")).unwrap();
        std::os::unix::fs::symlink("..data/p.rego", root.path().join("p.rego")).unwrap();
        std::os::unix::fs::symlink(".", root.path().join("loop")).unwrap();
        let loaded = load(&[root.path()], Purpose::Serve(None)).unwrap();
        assert_eq!(loaded.modules.len(), 1);
    }

    #[test]
    fn revisions_follow_the_content() {
        let revision = |files: &[(&str, &str)]| bundle(files).1.unwrap().revision;
        assert_eq!(revision(&[POLICY]), revision(&[POLICY]));
        assert_ne!(revision(&[POLICY]), revision(&[("q.rego", POLICY.1)]));
        assert_ne!(revision(&[POLICY]), revision(&[("p.rego", "package a\np := 2\n")]));
    }

    #[test]
    fn what_is_no_bundle_is_refused_with_a_hint() {
        let root = tempfile::tempdir().unwrap();
        let refused = |name: &str| {
            let errors = load(&[root.path().join(name)], Purpose::Develop).expect_err("refused");
            assert!(errors.faults().iter().all(|fault| fault.hint.is_some()), "{errors}");
            errors.faults()[0].code
        };
        fs::write(root.path().join("b.tar.gz"), "x").unwrap();
        fs::write(root.path().join("notes.txt"), "x").unwrap();
        fs::create_dir(root.path().join("empty")).unwrap();
        assert_eq!(refused("b.tar.gz"), "bad_archive");
        assert_eq!(refused("notes.txt"), "not_a_policy");
        assert_eq!(refused("empty"), "empty_bundle");
        assert_eq!(refused("nothing"), "unreadable");
    }
}
