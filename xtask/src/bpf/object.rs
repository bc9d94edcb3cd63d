//! Reduction of the linked object.

use std::collections::HashMap;

use anyhow::{Context, Result};
use object::{
    BinaryFormat, Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionFlags,
    SectionKind, SymbolKind, SymbolSection,
    read::elf::ElfFile64,
    write::{self, Relocation, SectionId, Symbol, SymbolId},
};

/// Returns the object without debug information: DWARF and the BTF of source lines are fifty times the rest.
/// The BTF of types stays, as it defines the maps.
///
/// # Errors
/// The linker's output is not a relocatable ELF object.
pub(super) fn stripped(linked: &[u8]) -> Result<Vec<u8>> {
    let input: ElfFile64 = ElfFile64::parse(linked).context("reading the linked BPF object")?;
    let mut output = write::Object::new(BinaryFormat::Elf, input.architecture(), input.endianness());
    let sections = copy_sections(&input, &mut output)?;
    let symbols = copy_symbols(&input, &mut output, &sections)?;
    copy_relocations(&input, &mut output, &sections, &symbols)?;
    output.write().context("writing the BPF object")
}

type Sections = HashMap<object::SectionIndex, SectionId>;
type Symbols = HashMap<object::SymbolIndex, SymbolId>;

fn copy_sections(input: &ElfFile64, output: &mut write::Object) -> Result<Sections> {
    let mut copied = HashMap::new();
    for section in input.sections() {
        let name = section.name_bytes()?;
        // The writer creates new tables of symbols, strings and relocations.
        if matches!(section.kind(), SectionKind::Metadata) && !name.starts_with(b".BTF")
            || name.starts_with(b".debug_")
            || name == b".BTF.ext"
            || name.starts_with(b".rel")
        {
            continue;
        }
        let id = output.add_section(Vec::new(), name.to_vec(), section.kind());
        if section.kind() == SectionKind::UninitializedData {
            output.append_section_bss(id, section.size(), section.align());
        } else {
            output.append_section_data(id, section.data()?, section.align());
        }
        if let SectionFlags::Elf { sh_flags } = section.flags() {
            output.section_mut(id).flags = SectionFlags::Elf { sh_flags };
        }
        copied.insert(section.index(), id);
    }
    Ok(copied)
}

fn copy_symbols(input: &ElfFile64, output: &mut write::Object, sections: &Sections) -> Result<Symbols> {
    let mut copied = HashMap::new();
    for symbol in input.symbols() {
        let section = match symbol.section() {
            SymbolSection::Section(index) => match sections.get(&index) {
                Some(id) => write::SymbolSection::Section(*id),
                None => continue,
            },
            SymbolSection::Undefined => write::SymbolSection::Undefined,
            _ => continue,
        };
        let id = match (symbol.kind(), section) {
            (SymbolKind::Section, write::SymbolSection::Section(id)) => output.section_symbol(id),
            _ => output.add_symbol(Symbol {
                name: symbol.name_bytes()?.to_vec(),
                value: symbol.address(),
                size: symbol.size(),
                kind: symbol.kind(),
                scope: symbol.scope(),
                weak: symbol.is_weak(),
                section,
                flags: object::SymbolFlags::None,
            }),
        };
        copied.insert(symbol.index(), id);
    }
    Ok(copied)
}

fn copy_relocations(
    input: &ElfFile64,
    output: &mut write::Object,
    sections: &Sections,
    symbols: &Symbols,
) -> Result<()> {
    for section in input.sections() {
        let Some(id) = sections.get(&section.index()) else { continue };
        for (offset, relocation) in section.relocations() {
            let RelocationTarget::Symbol(symbol) = relocation.target() else { continue };
            let symbol =
                *symbols.get(&symbol).with_context(|| format!("no symbol for a relocation at {offset}"))?;
            // The addend is in the section itself (SHT_REL).
            let relocation = Relocation { offset, symbol, addend: 0, flags: relocation.flags() };
            output.add_relocation(*id, relocation).context("copying a relocation")?;
        }
    }
    Ok(())
}
