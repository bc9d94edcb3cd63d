//! The fields of our records. Numbers are those of IANA's registry of IPFIX information elements.

/// Marks the reverse direction of an element (RFC 5103, 6.1).
const REVERSE: u32 = 29_305;
/// Set id of templates (RFC 7011, 3.3.2).
const TEMPLATES: u16 = 2;

/// Set id of options templates.
const OPTIONS: u16 = 3;

/// Template and set id of what the observation domain is called.
pub(crate) const DOMAIN: u16 = 258;
/// observationDomainId, which is the scope, and observationDomainName, as long as it is.
const DOMAIN_FIELDS: [(u16, u16); 2] = [(149, 4), (300, u16::MAX)];

/// Template and set id of IPv4 flows.
pub(crate) const V4: u16 = 256;
/// Template and set id of IPv6 flows.
pub(crate) const V6: u16 = 257;

/// An element, its length in bytes, and whether it is of the reverse direction.
type Field = (u16, u16, bool);

/// sourceIPv4Address, destinationIPv4Address.
const ADDRESSES_V4: [Field; 2] = [(8, 4, false), (12, 4, false)];
/// sourceIPv6Address, destinationIPv6Address.
const ADDRESSES_V6: [Field; 2] = [(27, 16, false), (28, 16, false)];

/// What stands behind the addresses, in both templates, in the order in which `Data` writes it.
const COMMON: [Field; 18] = [
    (7, 2, false),   // sourceTransportPort
    (11, 2, false),  // destinationTransportPort
    (4, 1, false),   // protocolIdentifier
    (152, 8, false), // flowStartMilliseconds
    (153, 8, false), // flowEndMilliseconds
    (1, 8, false),   // octetDeltaCount
    (2, 8, false),   // packetDeltaCount
    (1, 8, true),
    (2, 8, true),
    (6, 1, false), // tcpControlBits
    (6, 1, true),
    (136, 1, false), // flowEndReason
    (239, 1, false), // biflowDirection
    (58, 2, false),  // vlanId: the outer tag
    (245, 2, false), // dot1qCustomerVlanId: the inner one
    (56, 6, false),  // sourceMacAddress
    (148, 8, false), // flowId
    (10, 4, false),  // ingressInterface
];

/// The set that holds both templates.
pub(crate) fn set() -> Vec<u8> {
    let mut set = Vec::new();
    set.extend(TEMPLATES.to_be_bytes());
    set.extend([0; 2]);
    for (id, addresses) in [(V4, ADDRESSES_V4), (V6, ADDRESSES_V6)] {
        set.extend(id.to_be_bytes());
        set.extend(((addresses.len() + COMMON.len()) as u16).to_be_bytes());
        for (element, length, reverse) in addresses.into_iter().chain(COMMON) {
            // The first bit says that an enterprise's number follows.
            let element = if reverse { element | 0x8000 } else { element };
            set.extend(element.to_be_bytes());
            set.extend(length.to_be_bytes());
            if reverse {
                set.extend(REVERSE.to_be_bytes());
            }
        }
    }
    let length = set.len() as u16;
    set[2..4].copy_from_slice(&length.to_be_bytes());
    set
}

/// Returns the sets that name the observation domain: the options template, and its only record (RFC 7011, 3.4.2).
pub(crate) fn domain(id: u32, name: &str) -> Vec<u8> {
    let mut template = Vec::new();
    for number in [DOMAIN, DOMAIN_FIELDS.len() as u16, 1] {
        template.extend(number.to_be_bytes());
    }
    for (element, length) in DOMAIN_FIELDS {
        template.extend(element.to_be_bytes());
        template.extend(length.to_be_bytes());
    }
    // A length of one byte is less than 255.
    let name = &name[..name.floor_char_boundary(254)];
    let mut record = id.to_be_bytes().to_vec();
    record.push(name.len() as u8);
    record.extend(name.as_bytes());
    let mut sets = Vec::new();
    for (set, content) in [(OPTIONS, template), (DOMAIN, record)] {
        sets.extend(set.to_be_bytes());
        sets.extend((content.len() as u16 + 4).to_be_bytes());
        sets.extend(content);
    }
    sets
}

/// Bytes of a record of a template.
#[cfg(test)]
pub(crate) fn length(id: u16) -> usize {
    let addresses = if id == V4 { ADDRESSES_V4 } else { ADDRESSES_V6 };
    addresses.into_iter().chain(COMMON).map(|(_, length, _)| usize::from(length)).sum()
}
