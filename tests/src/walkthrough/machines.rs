//! Hosts of the lab as machines of their own: processes and the directories that services write to are
//! theirs alone, and commands are run on them from another host.

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead as _, BufReader},
    net::IpAddr,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Stdio,
};

use anyhow::{Context as _, Result, ensure};

use crate::lab::{Lab, LabChild};

/// Which of the machine's directories begin empty: where nginx, as packaged, has its settings, its files
/// and its process id.
const OWN_DIRECTORIES: &str = "/etc/nginx /run /srv /var/lib/nginx /var/log";
/// What a machine says when it can be used.
const READY: &str = "ready";

/// Running machines. All their processes end with them, whoever started them, and with this process.
pub struct Machines {
    _inits: Vec<LabChild>,
}

impl Machines {
    /// Makes machines of the hosts with these addresses, and writes the command `on-host ADDRESS COMMAND...`
    /// into `commands`; it runs COMMAND there.
    pub fn start(lab: &Lab, addresses: &[IpAddr], commands: &Path) -> Result<Self> {
        let mut inits = Vec::new();
        let mut script = "#!/bin/sh\ncase \"$1\" in\n".to_owned();
        for address in addresses {
            let init = start(lab, *address).with_context(|| format!("the machine {address}"))?;
            // Writing to a String does not fail.
            let _ = writeln!(script, "{address}) namespaces=/proc/{}/ns ;;", init.id());
            inits.push(init);
        }
        script.push_str(
            "*) echo \"on-host: there is no host $1\" >&2; exit 1 ;;\n\
             esac\n\
             shift\n\
             exec nsenter --net=$namespaces/net --mount=$namespaces/mnt --pid=$namespaces/pid_for_children -- \"$@\"\n",
        );
        let path = commands.join("on-host");
        fs::write(&path, script).with_context(|| format!("cannot write {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("cannot make {} a command", path.display()))?;
        Ok(Self { _inits: inits })
    }
}

/// Process 1 of the machine is what `unshare` starts; the kernel ends the others with it.
fn start(lab: &Lab, address: IpAddr) -> Result<LabChild> {
    let host = lab.host_of(address)?;
    let mut command = host.command("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    let init = format!(
        "set -e; for directory in {OWN_DIRECTORIES}; do mount -t tmpfs tmpfs $directory; done; \
         echo {READY}; exec sleep infinity"
    );
    command.args(["sh", "-c", &init]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = host.start_child(command)?;
    let stdout = child.child().stdout.take().context("it was just piped")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    ensure!(
        line.trim_end() == READY,
        "has no directories of its own, see above: one of {OWN_DIRECTORIES} is missing?"
    );
    Ok(child)
}
