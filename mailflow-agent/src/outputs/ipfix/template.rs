//! Fields of the exported records. The numbers are those of IANA's registry of IPFIX information elements.

/// Enterprise number of reverse elements (RFC 5103, 6.1).
const REVERSE_ENTERPRISE: u32 = 29_305;
/// Set id of templates (RFC 7011, 3.3.2).
const TEMPLATE_SET: u16 = 2;

/// Set id of options templates.
const OPTIONS_TEMPLATE_SET: u16 = 3;

/// Template and set id of the observation domain's name.
pub(crate) const DOMAIN_TEMPLATE: u16 = 258;
/// observationDomainId, which is the scope, and observationDomainName of variable length.
const DOMAIN_FIELDS: [(u16, u16); 2] = [(149, 4), (300, u16::MAX)];

/// Template and set id of IPv4 flows.
pub(crate) const IPV4_TEMPLATE: u16 = 256;
/// Template and set id of IPv6 flows.
pub(crate) const IPV6_TEMPLATE: u16 = 257;

/// Element, its length in bytes, and true for the reverse direction.
type TemplateField = (u16, u16, bool);

/// sourceIPv4Address, destinationIPv4Address.
const IPV4_ADDRESS_FIELDS: [TemplateField; 2] = [(8, 4, false), (12, 4, false)];
/// sourceIPv6Address, destinationIPv6Address.
const IPV6_ADDRESS_FIELDS: [TemplateField; 2] = [(27, 16, false), (28, 16, false)];

/// Fields after the addresses, in the order in which `DataRecord` writes them.
const COMMON_FIELDS: [TemplateField; 18] = [
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

/// Returns the set with both templates.
pub(crate) fn set() -> Vec<u8> {
    let mut set = Vec::new();
    set.extend(TEMPLATE_SET.to_be_bytes());
    set.extend([0; 2]);
    for (id, addresses) in [(IPV4_TEMPLATE, IPV4_ADDRESS_FIELDS), (IPV6_TEMPLATE, IPV6_ADDRESS_FIELDS)] {
        set.extend(id.to_be_bytes());
        set.extend(((addresses.len() + COMMON_FIELDS.len()) as u16).to_be_bytes());
        for (element, length, reverse) in addresses.into_iter().chain(COMMON_FIELDS) {
            // The first bit announces an enterprise number.
            let element = if reverse { element | 0x8000 } else { element };
            set.extend(element.to_be_bytes());
            set.extend(length.to_be_bytes());
            if reverse {
                set.extend(REVERSE_ENTERPRISE.to_be_bytes());
            }
        }
    }
    let length = set.len() as u16;
    set[2..4].copy_from_slice(&length.to_be_bytes());
    set
}

/// Returns the sets that name the observation domain: the options template and its only record (RFC 7011,
/// 3.4.2).
pub(crate) fn domain(id: u32, name: &str) -> Vec<u8> {
    let mut template = Vec::new();
    for number in [DOMAIN_TEMPLATE, DOMAIN_FIELDS.len() as u16, 1] {
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
    for (set, content) in [(OPTIONS_TEMPLATE_SET, template), (DOMAIN_TEMPLATE, record)] {
        sets.extend(set.to_be_bytes());
        sets.extend((content.len() as u16 + 4).to_be_bytes());
        sets.extend(content);
    }
    sets
}

/// Returns the length of a template's record.
#[cfg(test)]
pub(crate) fn length(id: u16) -> usize {
    let addresses = if id == IPV4_TEMPLATE { IPV4_ADDRESS_FIELDS } else { IPV6_ADDRESS_FIELDS };
    addresses.into_iter().chain(COMMON_FIELDS).map(|(_, length, _)| usize::from(length)).sum()
}
