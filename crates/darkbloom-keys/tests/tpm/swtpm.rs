//! A software TPM in a process of its own, made and certified as a machine's maker would.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// One machine's TPM. It goes with this value.
pub struct Swtpm {
    folder: TempDir,
}

/// Runs a tool to its end.
fn tool(command: &mut Command) -> Output {
    let name = command.get_program().to_owned();
    let output = command.output().unwrap_or_else(|error| {
        panic!("cannot run {name:?}: {error}; the tests need Debian's packages swtpm and swtpm-tools")
    });
    let said = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?} failed: {said:?}");
    output
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the tests' folders have names in UTF-8")
}

/// Makes a TPM and its maker's authority, once for all tests: making keys takes seconds.
fn manufactured(maker: &str) -> PathBuf {
    let made = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("swtpm-{maker}"));
    let lock = fs::File::create(made.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    if made.join("complete").exists() {
        return made;
    }
    let _ = fs::remove_dir_all(&made);
    let authority = made.join("authority");
    let state = made.join("state");
    fs::create_dir_all(&authority).unwrap();
    fs::create_dir_all(&state).unwrap();
    let (setup, local, options) = (made.join("setup.conf"), made.join("localca.conf"), made.join("localca.options"));
    let folder = text(&authority);
    let settings = format!(
        "statedir = {folder}\nsigningkey = {folder}/signkey.pem\nissuercert = {folder}/issuercert.pem\n\
         certserial = {folder}/certserial\n"
    );
    fs::write(&local, settings).unwrap();
    fs::write(&options, "--platform-manufacturer Darkbloom\n--platform-version 1\n--platform-model test\n").unwrap();
    let settings = format!(
        "create_certs_tool = /usr/bin/swtpm_localca\ncreate_certs_tool_config = {}\ncreate_certs_tool_options = {}\n\
         active_pcr_banks = sha256\n",
        text(&local),
        text(&options)
    );
    fs::write(&setup, settings).unwrap();
    tool(Command::new("swtpm_setup").args(["--tpm2", "--create-ek-cert", "--lock-nvram", "--config"]).args([
        text(&setup),
        "--tpmstate",
        text(&state),
    ]));
    fs::write(made.join("complete"), "").unwrap();
    made
}

impl Swtpm {
    /// A TPM that one maker made. Two of one maker are copies: the same endorsement key and the same seeds.
    pub fn start(maker: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        fs::create_dir(&state).unwrap();
        for file in fs::read_dir(manufactured(maker).join("state")).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), state.join(file.file_name())).unwrap();
        }
        let tpm = Self { folder };
        tpm.switch_on();
        tpm
    }

    fn socket(&self, name: &str) -> String {
        text(&self.folder.path().join(name)).to_owned()
    }

    fn switch_on(&self) {
        tool(
            Command::new("swtpm")
                .args(["socket", "--tpm2", "--daemon", "--flags", "not-need-init,startup-clear", "--tpmstate"])
                .arg(format!("dir={}", self.socket("state")))
                .arg("--server")
                .arg(format!("type=unixio,path={}", self.socket("tpm")))
                .arg("--ctrl")
                .arg(format!("type=unixio,path={}", self.socket("tpm.ctrl"))),
        );
    }

    fn switch_off(&self) {
        let _ = Command::new("swtpm_ioctl").args(["--unix", &self.socket("tpm.ctrl"), "-s"]).output();
    }

    /// Where it is reached.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("tpm")
    }

    /// Switches the machine off and on again.
    pub fn restart(&self) {
        self.switch_off();
        self.switch_on();
    }

    /// Runs one of the `tpm2_…` tools on it, and says whether it succeeded and what it said.
    pub fn tpm2(&self, name: &str, arguments: &[&str]) -> (bool, String) {
        let output = Command::new(format!("tpm2_{name}"))
            .args(arguments)
            .env("TPM2TOOLS_TCTI", format!("swtpm:path={}", self.socket("tpm")))
            .current_dir(self.folder.path())
            .output()
            .unwrap_or_else(|error| panic!("cannot run tpm2_{name}: {error}; the tests need Debian's tpm2-tools"));
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }

    /// Has the maker certify the endorsement key on P-256, which its tools make none for, and keeps that where makers do.
    pub fn certify_p256(&self, maker: &str) {
        let (made, folder) = (manufactured(maker), text(self.folder.path()));
        assert!(self.tpm2("createek", &["-G", "ecc", "-c", "ek.ctx", "-u", "ek.pub"]).0);
        assert!(self.tpm2("flushcontext", &["-t"]).0);
        let (worked, said) = self.tpm2("print", &["-t", "TPM2B_PUBLIC", "ek.pub"]);
        assert!(worked, "{said}");
        let number = |name: &str| said.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
        let key = format!("x={},y={},id=secp256r1", number("x:"), number("y:"));
        // Next to others that certify: the number of a certificate is this one's own.
        let (authority, local) = (made.join("authority"), self.folder.path().join("localca.conf"));
        let authority = text(&authority);
        let settings = format!(
            "statedir = {folder}\nsigningkey = {authority}/signkey.pem\nissuercert = {authority}/issuercert.pem\n\
             certserial = {folder}/certserial\n"
        );
        fs::write(&local, settings).unwrap();
        tool(
            Command::new("swtpm_localca")
                .args(["--type", "ek", "--ek", &key, "--dir", folder, "--vmid", "test", "--tpm2"])
                .args(["--tpm-spec-family", "2.0", "--tpm-spec-level", "0", "--tpm-spec-revision", "146"])
                .args(["--tpm-manufacturer", "id:00001014", "--tpm-model", "swtpm", "--tpm-version", "id:20191023"])
                .args(["--configfile", text(&local), "--optsfile", text(&made.join("localca.options"))]),
        );
        let size = fs::metadata(self.folder.path().join("ek.cert")).unwrap().len().to_string();
        let index = ["0x01c0000a", "-C", "o", "-s", &size, "-a", "ownerwrite|ownerread|authread|no_da"];
        assert!(self.tpm2("nvdefine", &index).0);
        assert!(self.tpm2("nvwrite", &["0x01c0000a", "-C", "o", "-i", "ek.cert"]).0);
    }

    /// The maker's root and what is between it and the TPM's certificate, in PEM.
    pub fn authority(maker: &str) -> (String, String) {
        let folder = manufactured(maker).join("authority");
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        (read("swtpm-localca-rootca-cert.pem"), read("issuercert.pem"))
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        self.switch_off();
    }
}
