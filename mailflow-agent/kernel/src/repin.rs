//! Pins that somebody removed by hand while the agent runs: they are made again.

use std::{fs, io, path::PathBuf};

use aya::maps::MapInfo;

use super::{Kernel, Pinned, mount, pins::Pins};

impl Kernel {
    /// Makes pins again that are gone; returns their names. The programs count meanwhile, but would end with the agent.
    ///
    /// # Errors
    /// They cannot be made.
    pub fn mend_pins(&mut self) -> io::Result<Vec<String>> {
        let Self { loaded, watched, pinned: Some(Pinned { pins, .. }), .. } = self else {
            return Ok(Vec::new());
        };
        let mut made = Vec::new();
        if pins.mend_directories()? {
            made.push(pins.directory().display().to_string());
        }
        for (name, path) in pins.maps() {
            let Some(map) = loaded.ebpf.map(name) else { continue };
            // What else bears the name is left alone: the next agent compares it.
            if fs::symlink_metadata(&path).is_err() && MapInfo::from_pin(&path).is_err() {
                map.pin(&path).map_err(io::Error::other)?;
                made.push(name.to_owned());
            }
        }
        made.extend(watched.mend_pins(pins)?);
        Ok(made)
    }
}

impl Pins {
    /// Makes the directories again where they are gone; whether one was.
    fn mend_directories(&mut self) -> io::Result<bool> {
        let (locked, directory) = (self.is_locked(), self.directory());
        if locked && directory.is_dir() {
            return Ok(false);
        }
        let there = self.root().ancestors().find(|ancestor| ancestor.exists()).map(PathBuf::from);
        // Elsewhere the directories would be files on a disk.
        if !there.is_some_and(|there| mount::is_bpf(&there).unwrap_or(false)) {
            let text = format!("no BPF file system at {}", self.root().display());
            return Err(io::Error::other(text));
        }
        fs::create_dir_all(&directory)?;
        if !locked {
            self.lock_again()?;
        }
        Ok(true)
    }
}
