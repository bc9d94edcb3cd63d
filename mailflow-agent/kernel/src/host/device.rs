//! Properties of a network device. Read by ioctl rather than sysfs, whose mount may belong to another network
//! namespace.

use std::{
    ffi::{CStr, CString},
    io,
};

/// Device of the network namespace of this process.
#[derive(Clone, Debug)]
pub(crate) struct Device {
    /// Name when it was found; names change.
    pub(crate) name: String,
    /// Interface index, which stays while the device exists.
    pub(crate) index: u32,
}

/// Commands of SIOCETHTOOL (include/uapi/linux/ethtool.h).
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETH_FLAG_RXVLAN: u32 = 1 << 8;

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    version: [u8; 32],
    firmware: [u8; 32],
    bus: [u8; 32],
    rest: [u8; 64],
}

impl Device {
    /// Returns the device of that name, if there is one.
    pub(crate) fn find(name: &str) -> Option<Self> {
        Some(Self { name: name.to_owned(), index: Self::index_of(name)? })
    }

    /// Returns the interface index of that name, if there is one.
    pub(crate) fn index_of(name: &str) -> Option<u32> {
        let name = CString::new(name).ok()?;
        // SAFETY: reads a string that lives through the call.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        (index != 0).then_some(index)
    }

    /// Returns the current name of an interface index, if there is one.
    pub(crate) fn name_of(index: u32) -> Option<String> {
        let mut name = [0; libc::IF_NAMESIZE];
        // SAFETY: writes at most IF_NAMESIZE bytes, the last of them zero.
        let found = unsafe { libc::if_indextoname(index, name.as_mut_ptr()) };
        if found.is_null() {
            return None;
        }
        // SAFETY: the call succeeded, so the name ends within the array.
        Some(unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned())
    }

    /// Returns the ARPHRD type (include/uapi/linux/if_arp.h).
    pub(super) fn link_type(&self) -> io::Result<u16> {
        let request = self.ioctl(libc::SIOCGIFHWADDR, libc::__c_anonymous_ifr_ifru { ifru_ifindex: 0 })?;
        // SAFETY: the call filled in this member.
        Ok(unsafe { request.ifr_ifru.ifru_hwaddr.sa_family })
    }

    /// Returns true if the device is in promiscuous mode.
    pub(super) fn is_promiscuous(&self) -> io::Result<bool> {
        let request = self.ioctl(libc::SIOCGIFFLAGS, libc::__c_anonymous_ifr_ifru { ifru_ifindex: 0 })?;
        // SAFETY: the call filled in this member.
        Ok(i32::from(unsafe { request.ifr_ifru.ifru_flags }) & libc::IFF_PROMISC != 0)
    }

    /// Returns the names of its driver and bus; both empty if there are none.
    pub(crate) fn driver(&self) -> io::Result<(String, String)> {
        let mut info = DriverInfo {
            command: ETHTOOL_GDRVINFO,
            driver: [0; 32],
            version: [0; 32],
            firmware: [0; 32],
            bus: [0; 32],
            rest: [0; 64],
        };
        self.ioctl(libc::SIOCETHTOOL, libc::__c_anonymous_ifr_ifru { ifru_data: (&raw mut info).cast() })?;
        Ok((text(&info.driver), text(&info.bus)))
    }

    /// Returns true if the device removes VLAN tags from received frames.
    pub(super) fn strips_vlan_tags(&self) -> io::Result<bool> {
        let mut value = [ETHTOOL_GFLAGS, 0_u32];
        self.ioctl(libc::SIOCETHTOOL, libc::__c_anonymous_ifr_ifru { ifru_data: (&raw mut value).cast() })?;
        Ok(value[1] & ETH_FLAG_RXVLAN != 0)
    }

    fn ioctl(&self, command: libc::Ioctl, argument: libc::__c_anonymous_ifr_ifru) -> io::Result<libc::ifreq> {
        let mut request = libc::ifreq { ifr_name: [0; libc::IFNAMSIZ], ifr_ifru: argument };
        for (to, from) in request.ifr_name.iter_mut().zip(self.name.bytes()).take(libc::IFNAMSIZ - 1) {
            *to = from as libc::c_char;
        }
        // SAFETY: the request, and what its argument points to, live through the call and are of the
        // command's sizes; the descriptor is closed again.
        unsafe {
            let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
            if socket < 0 {
                return Err(io::Error::last_os_error());
            }
            let result = libc::ioctl(socket, command, &raw mut request);
            let error = io::Error::last_os_error();
            libc::close(socket);
            if result < 0 { Err(error) } else { Ok(request) }
        }
    }
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// Returns the names of all devices.
pub fn device_names() -> Vec<String> {
    let mut names = Vec::new();
    // SAFETY: the list ends with an entry without a name and is freed once.
    unsafe {
        let list = libc::if_nameindex();
        let mut entry = list;
        while !entry.is_null() && !(*entry).if_name.is_null() {
            names.push(CStr::from_ptr((*entry).if_name).to_string_lossy().into_owned());
            entry = entry.add(1);
        }
        if !list.is_null() {
            libc::if_freenameindex(list);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_answers() {
        let lo = Device::find("lo").unwrap();
        assert_eq!(lo.link_type().unwrap(), 772);
        assert!(!lo.is_promiscuous().unwrap());
        assert!(!lo.strips_vlan_tags().unwrap());
        assert!(device_names().iter().any(|name| name == "lo"));
        assert_eq!(Device::name_of(lo.index).as_deref(), Some("lo"));
        assert_eq!(Device::name_of(u32::MAX), None);
        assert!(Device::find("no\0such").is_none() && Device::find("nosuch").is_none());
    }
}
