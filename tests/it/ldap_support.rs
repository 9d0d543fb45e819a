//! Directories for the tests: a real `slapd` with odd entries, one that misbehaves, and a way to one that breaks.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use postern::base::ldap::dn::first;
use serde_json::Value;
use tempfile::TempDir;

use crate::gateway::TestGateway;
use crate::live_support::{Authority, plain_config};
use crate::wire::{RawResponse, RecordingUpstream, get};

pub(crate) const PEOPLE: &str = "ou=people,dc=example,dc=com";
pub(crate) const GROUPS: &str = "ou=groups,dc=example,dc=com";
pub(crate) const SERVICE: &str = "cn=gateway,ou=services,dc=example,dc=com";
pub(crate) const SERVICE_PASSWORD: &str = "gw-secret";

/// A user whose names have everything that means something in a filter, a distinguished name or LDIF.
pub(crate) const ODD: &str = r"o'neil, (a*b)\c #1 zoë";
pub(crate) const ODD_DN: &str = r#"cn=O'Neil\, \"Zoë\" \#1 (a*b)\\c,ou=people,dc=example,dc=com"#;

/// Users `u00` to `u39`, with the passwords `p00` to `p39`.
pub(crate) const NUMBERED: usize = 40;

/// What the policy does: it tells the client who it is.
pub(crate) const TELLS: &str = "package gateway\n\n\
    decision := {\"allow\": true, \"response\": {\"headers\": {\"set\": {\"X-Who\": base64.encode(json.marshal(input.identity))}}}}\n";

/// A private `slapd`. It ends with the test.
pub(crate) struct Slapd {
    directory: TempDir,
    process: Option<Child>,
    pub(crate) plain: SocketAddr,
    pub(crate) tls: SocketAddr,
    pub(crate) authority: Authority,
}

type Entry = (String, Vec<(&'static str, Vec<u8>)>);

impl Slapd {
    /// Starts one, unless it is not installed.
    pub(crate) fn start() -> Option<Self> {
        if !fs::exists("/usr/sbin/slapd").unwrap() {
            eprintln!("skipped: slapd is not installed");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let authority = Authority::new("Directory CA");
        let server = authority.server(&["127.0.0.1", "localhost"]);
        fs::write(path("ca.pem"), authority.pem()).unwrap();
        fs::write(path("cert.pem"), &server.cert).unwrap();
        fs::write(path("key.pem"), &server.key).unwrap();
        fs::create_dir(path("db")).unwrap();
        fs::write(path("data.ldif"), ldif()).unwrap();
        let schemas = ["core", "cosine", "nis", "inetorgperson"];
        let includes: String =
            schemas.iter().map(|name| format!("include /etc/ldap/schema/{name}.schema\n")).collect();
        let config = format!(
            "{includes}modulepath /usr/lib/ldap\nmoduleload back_mdb\nmoduleload memberof\n\
             allow bind_anon_dn bind_anon_cred\nloglevel none\npidfile {}\nargsfile {}\n\
             TLSCACertificateFile {}\nTLSCertificateFile {}\nTLSCertificateKeyFile {}\nTLSVerifyClient never\n\
             database mdb\nsuffix \"dc=example,dc=com\"\nrootdn \"cn=root,dc=example,dc=com\"\ndirectory {}\n\
             dbnosync\nindex objectClass,uid,member eq\noverlay memberof\n\
             access to attrs=userPassword by anonymous auth by * none\n\
             access to * by dn.exact=\"{SERVICE}\" read by * none\n",
            path("slapd.pid"),
            path("slapd.args"),
            path("ca.pem"),
            path("cert.pem"),
            path("key.pem"),
            path("db"),
        );
        fs::write(path("slapd.conf"), config).unwrap();
        let load = ["-q", "-f", &path("slapd.conf"), "-l", &path("data.ldif")];
        let loaded = Command::new("/usr/sbin/slapadd").args(load).output().unwrap();
        assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
        let mut slapd = Self { directory, process: None, plain: free(), tls: free(), authority };
        slapd.run();
        Some(slapd)
    }

    /// Starts the process on the same ports as before.
    pub(crate) fn run(&mut self) {
        let urls = format!("ldap://{} ldaps://{}", self.plain, self.tls);
        let config = self.directory.path().join("slapd.conf");
        let process = Command::new("/usr/sbin/slapd")
            .args(["-d", "0", "-h", &urls, "-f"])
            .arg(config)
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        self.process = Some(process);
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(self.tls).is_err() {
            assert!(Instant::now() < deadline, "slapd does not start");
            thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// Kills the process: its connections are reset.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Stops the process where it is (`-STOP`), or lets it go on (`-CONT`).
    pub(crate) fn signal(&self, signal: &str) {
        let id = self.process.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    pub(crate) fn ca(&self) -> String {
        self.authority.pem()
    }
}

impl Drop for Slapd {
    fn drop(&mut self) {
        self.kill();
    }
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn person(dn: String, names: &[&str], password: &str, more: &[(&'static str, &[u8])]) -> Entry {
    let mut entry = vec![
        ("objectClass", b"inetOrgPerson".to_vec()),
        ("sn", b"x".to_vec()),
        ("userPassword", password.into()),
    ];
    if !dn.starts_with("cn=") {
        entry.push(("cn", names[0].into()));
    }
    entry.extend(names.iter().map(|name| ("uid", name.as_bytes().to_vec())));
    entry.extend(more.iter().map(|(name, value)| (*name, value.to_vec())));
    (dn, entry)
}

fn group(name: &str, members: &[&str]) -> Entry {
    let mut entry = vec![("objectClass", b"groupOfNames".to_vec())];
    entry.extend(members.iter().map(|member| ("member", member.as_bytes().to_vec())));
    (format!("cn={name},{GROUPS}"), entry)
}

fn entries() -> Vec<Entry> {
    let unit = |name: &str| {
        (format!("ou={name},dc=example,dc=com"), vec![("objectClass", b"organizationalUnit".to_vec())])
    };
    let root = vec![
        ("objectClass", b"dcObject".to_vec()),
        ("objectClass", b"organization".to_vec()),
        ("o", b"x".to_vec()),
    ];
    let service = vec![
        ("objectClass", b"organizationalRole".to_vec()),
        ("objectClass", b"simpleSecurityObject".to_vec()),
        ("userPassword", SERVICE_PASSWORD.into()),
    ];
    let user = |name: &str| format!("uid={name},{PEOPLE}");
    let (alice, bob) = (user("alice"), user("bob"));
    let about: [(&str, &[u8]); 4] = [
        ("mail", b"alice@example.com"),
        ("departmentNumber", b"7"),
        ("departmentNumber", b"8"),
        ("jpegPhoto", b"\xff\xd8\xff"),
    ];
    let mut entries = vec![
        ("dc=example,dc=com".to_owned(), root),
        unit("people"),
        unit("groups"),
        unit("services"),
        (SERVICE.to_owned(), service),
        person(alice.clone(), &["alice"], "alice-pass", &about),
        person(bob.clone(), &["bob"], "b\u{f6}b: pass", &[("mail", b"bob@example.com")]),
        person(ODD_DN.to_owned(), &[ODD], "odd", &[]),
        person(format!("cn=twin one,{PEOPLE}"), &["twin"], "twin", &[]),
        person(format!("cn=twin two,{PEOPLE}"), &["twin"], "twin", &[]),
        person(user("two"), &["two", "zwei"], "two", &[]),
    ];
    for number in 0..NUMBERED {
        let name = format!("u{number:02}");
        entries.push(person(user(&name), &[&name], &format!("p{number:02}"), &[]));
    }
    let in_groups = |name: &str| format!("cn={name},{GROUPS}");
    entries.extend([
        group("staff", &[&alice, &bob]),
        group("engineers", &[&alice]),
        group(r"Sales\, EU (*)", &[ODD_DN]),
        group("technicians", &[&in_groups("engineers")]),
        group("company", &[&in_groups("technicians"), &in_groups("staff")]),
        group("loop-a", &[&in_groups("loop-b"), &bob]),
        group("loop-b", &[&in_groups("loop-a")]),
    ]);
    let posix = [("objectClass", "posixGroup"), ("gidNumber", "100"), ("memberUid", "alice")];
    let posix = posix.map(|(name, value)| (name, value.as_bytes().to_vec()));
    entries.push((format!("cn=posix,{GROUPS}"), posix.to_vec()));
    entries
}

/// All entries, each member with the `memberOf` that the overlay would have given it.
fn ldif() -> String {
    let mut entries = entries();
    let mut groups_of: BTreeMap<Vec<u8>, Vec<String>> = BTreeMap::new();
    for (dn, attributes) in &entries {
        for (_, member) in attributes.iter().filter(|(name, _)| *name == "member") {
            groups_of.entry(member.clone()).or_default().push(dn.clone());
        }
    }
    let mut text = String::new();
    for (dn, attributes) in &mut entries {
        let groups = groups_of.remove(dn.as_bytes()).unwrap_or_default();
        attributes.extend(groups.into_iter().map(|group| ("memberOf", group.into_bytes())));
        writeln!(text, "dn:: {}", STANDARD.encode(&*dn)).unwrap();
        // What an entry is named by is a value of it.
        let (named_by, value) = first(dn).unwrap();
        if !attributes.iter().any(|(name, known)| *name == named_by && *known == value.as_bytes()) {
            writeln!(text, "{named_by}:: {}", STANDARD.encode(value)).unwrap();
        }
        for (name, value) in attributes {
            writeln!(text, "{name}:: {}", STANDARD.encode(value)).unwrap();
        }
        text.push('\n');
    }
    assert!(groups_of.is_empty(), "every member is there");
    text
}

/// The provider `directory` at `url`, with the service account; `more` are further options, `users` further ones of it.
pub(crate) fn provider(url: &str, more: &str) -> String {
    format!(
        "  directory:\n    type: ldap\n    url: {url}\n    bind_dn: \"{SERVICE}\"\n    bind_password: {SERVICE_PASSWORD}\n    \
         users: {{base: \"{PEOPLE}\"}}\n    {more}\n"
    )
}

/// A gateway whose one API has the identity providers in `order`.
pub(crate) fn gateway(
    upstream: &RecordingUpstream,
    providers: &str,
    order: &str,
    files: &[(&str, &str)],
) -> TestGateway {
    let config = plain_config(&upstream.url(), &format!("identity:\n{providers}")).replace(
        "{name: all, policy: main, upstream: up}",
        &format!("{{name: all, policy: main, upstream: up, identity: {order}}}"),
    );
    let files: Vec<_> = [("policy/main.rego", TELLS)].into_iter().chain(files.iter().copied()).collect();
    TestGateway::start(&config, &files)
}

/// A gateway with one directory, reached without TLS, and groups nested three levels deep.
pub(crate) fn usual(upstream: &RecordingUpstream, address: SocketAddr, more: &str) -> TestGateway {
    let groups = format!("groups: {{base: \"{GROUPS}\", nested: 3}}\n    {more}");
    gateway(upstream, &provider(&format!("ldap://{address}"), &groups), "[directory]", &[])
}

pub(crate) fn basic(username: &str, password: &str) -> String {
    raw_basic(format!("{username}:{password}").as_bytes())
}

pub(crate) fn raw_basic(credential: &[u8]) -> String {
    format!("Authorization: Basic {}\r\n", STANDARD.encode(credential))
}

pub(crate) fn login(gateway: &TestGateway, username: &str, password: &str) -> RawResponse {
    get(gateway.address("public"), "/", &basic(username, password))
}

/// The identity that the policy saw.
pub(crate) fn who(response: &RawResponse) -> Value {
    let told = response.header("x-who").unwrap_or_else(|| panic!("nobody: {}", response.head));
    serde_json::from_slice(&STANDARD.decode(told).unwrap()).unwrap()
}

/// The reason of the last outage, as `/status` tells it.
pub(crate) fn last_outage(gateway: &TestGateway) -> String {
    let status: Value = serde_json::from_slice(&crate::live_support::admin(gateway, "/status").body).unwrap();
    status["identity_servers"]["directory"]["last_outage"]["reason"].as_str().unwrap_or_default().to_owned()
}

/// What a server that misbehaves does with a message.
pub(crate) enum Act {
    Send(Vec<u8>),
    /// Sends the same again and again, until the other side has enough.
    Pour(Vec<u8>),
    Stall,
}

/// A message of the gateway.
pub(crate) struct Asked {
    pub(crate) id: u8,
    /// The operation's tag: 0x60 a bind, 0x63 a search, 0x77 an extended operation.
    pub(crate) operation: u8,
    pub(crate) bytes: Vec<u8>,
}

impl Asked {
    /// Whether it is the bind of the gateway's own account.
    pub(crate) fn is_service_bind(&self) -> bool {
        self.has(SERVICE)
    }

    pub(crate) fn has(&self, text: &str) -> bool {
        self.bytes.windows(text.len()).any(|part| part == text.as_bytes())
    }
}

/// A directory of our own making.
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    binds: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Fake {
    pub(crate) fn start(act: impl Fn(&Asked) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let fake = Self {
            address: listener.local_addr().unwrap(),
            connections: Arc::default(),
            binds: Arc::default(),
            stop: Arc::default(),
        };
        let act = Arc::new(act);
        let (connections, binds, stop) =
            (Arc::clone(&fake.connections), Arc::clone(&fake.binds), Arc::clone(&fake.stop));
        thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                connections.fetch_add(1, Ordering::Relaxed);
                let (act, binds) = (Arc::clone(&act), Arc::clone(&binds));
                thread::spawn(move || serve(stream?, &*act, &binds));
            }
        });
        fake
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub(crate) fn user_binds(&self) -> usize {
        self.binds.load(Ordering::Relaxed)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(self.address));
    }
}

fn serve(mut stream: TcpStream, act: &dyn Fn(&Asked) -> Act, binds: &AtomicUsize) -> io::Result<()> {
    loop {
        let asked = read_message(&mut stream)?;
        if asked.operation == 0x60 && !asked.is_service_bind() {
            binds.fetch_add(1, Ordering::Relaxed);
        }
        match act(&asked) {
            Act::Send(bytes) => stream.write_all(&bytes)?,
            Act::Pour(bytes) => loop {
                stream.write_all(&bytes)?;
            },
            // The other side goes first.
            Act::Stall => drop(stream.read(&mut [0])?),
        }
    }
}

/// Reads a message whose id has one byte.
fn read_message(stream: &mut TcpStream) -> io::Result<Asked> {
    let mut bytes = vec![0; 2];
    stream.read_exact(&mut bytes)?;
    let octets = if bytes[1] < 0x80 { 0 } else { usize::from(bytes[1] & 0x7f) };
    let mut long = vec![0; octets];
    stream.read_exact(&mut long)?;
    let length = if octets == 0 {
        usize::from(bytes[1])
    } else {
        long.iter().fold(0, |sum, octet| sum << 8 | usize::from(*octet))
    };
    let mut content = vec![0; length];
    stream.read_exact(&mut content)?;
    assert_eq!(content[..2], [2, 1], "a small message id");
    Ok(Asked { id: content[2], operation: content[3], bytes: content })
}

/// An element.
pub(crate) fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap().to_be_bytes();
    [&[tag, 0x84][..], &length, content].concat()
}

fn message(id: u8, operation: &[u8]) -> Vec<u8> {
    element(0x30, &[&[2, 1, id][..], operation].concat())
}

/// A result of the kind `tag`.
pub(crate) fn result(id: u8, tag: u8, code: u8) -> Vec<u8> {
    message(id, &element(tag, &[10, 1, code, 4, 0, 4, 0]))
}

/// An entry with one attribute.
pub(crate) fn entry(id: u8, dn: &str, attribute: &str, values: &[&[u8]]) -> Vec<u8> {
    let values: Vec<u8> = values.iter().flat_map(|value| element(4, value)).collect();
    let attribute = element(0x30, &[element(4, attribute.as_bytes()), element(0x31, &values)].concat());
    message(id, &element(0x64, &[element(4, dn.as_bytes()), element(0x30, &attribute)].concat()))
}

/// What a well-behaved server with the one user `alice`, of any password, answers.
pub(crate) fn behave(asked: &Asked) -> Act {
    match asked.operation {
        0x60 => Act::Send(result(asked.id, 0x61, 0)),
        0x63 if asked.has("alice") && !asked.has("member") => {
            let found = entry(asked.id, &format!("uid=alice,{PEOPLE}"), "uid", &[b"alice"]);
            Act::Send([found, result(asked.id, 0x65, 0)].concat())
        }
        0x63 => Act::Send(result(asked.id, 0x65, 0)),
        _ => Act::Send(result(asked.id, 0x78, 2)),
    }
}
