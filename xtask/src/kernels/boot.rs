//! Virtual machine of a guest: QEMU in software emulation, without a disk and without an external network.

use std::{
    fs::{self, File},
    io::BufWriter,
    os::unix::process::CommandExt,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use mailflow_test_support::lab::Running;

use super::{emulator::Emulator, guest::Guest, initramfs::Initramfs, kernel::Kernel, modules};

/// Timeout of a guest: several times the usual time on a busy machine.
const PATIENCE: Duration = Duration::from_secs(600);

/// Options of the NIC: no receive offloads, which exclude native XDP, and no network boot.
const NIC: &str = "romfile=,guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off";

/// Results of a guest.
#[derive(Debug)]
pub(super) struct Booted {
    /// Output on the serial console.
    pub(super) console: String,
    /// Duration of the run.
    pub(super) took: Duration,
}

/// Boots a kernel with the guest and waits until the guest switches the machine off.
pub(super) fn boot(guest: &Guest, kernel: &Kernel, emulator: &Emulator) -> Result<Booted> {
    let initramfs = kernel.root.join("initramfs");
    pack(guest, kernel, &initramfs).context("making the guest's file system")?;
    let log = kernel.root.join("console.log");
    // The log of an earlier guest must not be taken for this one's.
    if log.exists() {
        fs::remove_file(&log)?;
    }
    let began = Instant::now();
    let mut machine = Running::start(qemu(emulator, &kernel.image()?, &initramfs), &log)?;
    let ended = machine.wait(PATIENCE);
    machine.stop()?;
    let took = began.elapsed();
    ended.with_context(|| format!("its console is in {}", log.display()))?;
    let console = fs::read(&log).with_context(|| log.display().to_string())?;
    Ok(Booted { console: String::from_utf8_lossy(&console).into_owned(), took })
}

fn pack(guest: &Guest, kernel: &Kernel, path: &Path) -> Result<()> {
    let mut archive = Initramfs::new(BufWriter::new(File::create(path)?))?;
    for (path, bytes) in &guest.files {
        archive.file(path, bytes)?;
    }
    // The guest loads the modules in the order of their names.
    for (number, module) in modules::wanted(&kernel.modules()?)?.into_iter().enumerate() {
        archive.file(&format!("modules/{number:02}-{}", module.name), &module.bytes)?;
    }
    archive.end()?;
    Ok(())
}

fn qemu(emulator: &Emulator, image: &Path, initramfs: &Path) -> Command {
    let mut qemu = emulator.command();
    qemu.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio"]);
    // One thread for all CPUs: with one thread each, the emulation has crashed a guest. No KVM: a virtual
    // machine may have a /dev/kvm that cannot run these kernels.
    qemu.args(["-machine", "pc", "-accel", "tcg,thread=single", "-cpu", "max", "-smp", "2", "-m", "768"]);
    // Two NICs on a hub inside QEMU: native XDP of a real driver, without the host's network.
    for number in ["0", "1"] {
        qemu.arg("-netdev").arg(format!("hubport,id=n{number},hubid=0"));
        qemu.arg("-device").arg(format!("virtio-net-pci,netdev=n{number},{NIC}"));
    }
    qemu.arg("-kernel").arg(image).arg("-initrd").arg(initramfs);
    // Newer kernels check the timer with a loop at boot, which fails on a busy host.
    let arguments = "console=ttyS0 quiet panic=-1 mitigations=off nokaslr no_timer_check";
    qemu.args(["-append", arguments]);
    let die_with_parent = || {
        // SAFETY: prctl(2) with integer arguments is safe between fork and exec.
        match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: the closure only calls prctl(2) and reads errno.
    unsafe { qemu.pre_exec(die_with_parent) };
    qemu
}
