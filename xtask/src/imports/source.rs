//! Files of a crate, and the names that each file uses from the others.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use syn::{Attribute, Item, UseTree, visit::Visit};

use super::graph::Graph;

/// Maximum number of re-exports between a name and its definition.
const LONGEST_CHAIN: usize = 16;

/// Modules of a crate by their paths, without `crate`.
pub(super) struct Crate {
    modules: BTreeMap<Vec<String>, Module>,
}

/// Module: a file, or a part of one.
#[derive(Default)]
struct Module {
    file: String,
    /// Names defined here.
    items: BTreeSet<String>,
    /// Names that `use` imports, with their paths.
    imports: BTreeMap<String, Vec<String>>,
    /// Modules whose names `use` imports by a glob.
    globs: Vec<Vec<String>>,
    /// Paths of more than one segment.
    paths: BTreeSet<Vec<String>>,
}

impl Crate {
    /// Reads the crate whose root is this file.
    ///
    /// # Errors
    /// A file cannot be read, or is not Rust.
    pub(super) fn read(root: &str) -> Result<Self> {
        let root = Path::new(root);
        let mut found = Self { modules: BTreeMap::new() };
        let folder = root.parent().unwrap_or(Path::new("."));
        found.read_file(root, folder, Vec::new(), folder)?;
        Ok(found)
    }

    /// Reads a file; `folder` has its child modules.
    fn read_file(&mut self, file: &Path, folder: &Path, path: Vec<String>, root: &Path) -> Result<()> {
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let parsed = syn::parse_file(&text).with_context(|| file.display().to_string())?;
        self.read_items(&parsed.items, file, folder, path, root)
    }

    fn read_items(
        &mut self,
        items: &[Item],
        file: &Path,
        folder: &Path,
        path: Vec<String>,
        root: &Path,
    ) -> Result<()> {
        let shown = file.strip_prefix(root).unwrap_or(file).display().to_string();
        let mut module = Module { file: shown, ..Module::default() };
        for item in items.iter().filter(|item| !is_test(attributes(item))) {
            match item {
                Item::Mod(inner) => {
                    let name = inner.ident.to_string();
                    let inner_path = [&path[..], std::slice::from_ref(&name)].concat();
                    let inner_folder = folder.join(&name);
                    if let Some((_, items)) = &inner.content {
                        self.read_items(items, file, &inner_folder, inner_path, root)?;
                        continue;
                    }
                    let (file, folder) = match told_path(&inner.attrs) {
                        Some(told) => {
                            let file = file.with_file_name(told);
                            let folder = file.parent().unwrap_or(folder).to_owned();
                            (file, folder)
                        }
                        None => child(folder, &name),
                    };
                    self.read_file(&file, &folder, inner_path, root)?;
                }
                Item::Use(item) => module.import(&item.tree, &[]),
                _ => {
                    module.items.extend(name(item));
                    module.visit_item(item);
                }
            }
        }
        self.modules.insert(path, module);
        Ok(())
    }

    /// Returns the imports of each file.
    pub(super) fn graph(&self) -> Graph {
        let mut graph = Graph::new();
        for (path, module) in &self.modules {
            let imports = graph.entry(module.file.clone()).or_default();
            let named = module.imports.values().chain(&module.paths);
            imports
                .extend(named.filter_map(|named| self.file(path, named)).filter(|file| *file != module.file));
        }
        graph
    }

    /// Returns the file that defines `named` in the module `from`; `None` for a module and for names outside
    /// of this crate.
    fn file(&self, from: &[String], named: &[String]) -> Option<String> {
        match self.resolve(from, named, LONGEST_CHAIN)? {
            Found::Item(file) => Some(file),
            Found::Module(_) => None,
        }
    }

    fn resolve(&self, from: &[String], named: &[String], chain: usize) -> Option<Found> {
        let chain = chain.checked_sub(1)?;
        let (first, mut rest) = named.split_first()?;
        let mut at: Vec<String> = match first.as_str() {
            "crate" => Vec::new(),
            "self" => from.to_vec(),
            "super" => from.split_last()?.1.to_vec(),
            _ => match self.member(from, first, chain)? {
                Found::Module(path) => path,
                item => return Some(item),
            },
        };
        while let Some((next, after)) = rest.split_first() {
            rest = after;
            if next == "super" {
                at.pop();
                continue;
            }
            match self.member(&at, next, chain) {
                Some(Found::Module(path)) => at = path,
                Some(item) => return Some(item),
                // A name that a macro defines.
                None => return Some(Found::Item(self.modules.get(&at)?.file.clone())),
            }
        }
        Some(Found::Module(at))
    }

    /// Returns the definition of a name in a module.
    fn member(&self, of: &[String], name: &str, chain: usize) -> Option<Found> {
        let chain = chain.checked_sub(1)?;
        let module = self.modules.get(of)?;
        if module.items.contains(name) {
            return Some(Found::Item(module.file.clone()));
        }
        let child = [of, &[name.to_owned()]].concat();
        if self.modules.contains_key(&child) {
            return Some(Found::Module(child));
        }
        if let Some(path) = module.imports.get(name) {
            return self.resolve(of, path, chain);
        }
        module.globs.iter().find_map(|glob| match self.resolve(of, glob, chain)? {
            Found::Module(path) if path != of => self.member(&path, name, chain),
            _ => None,
        })
    }
}

enum Found {
    /// Name that is defined in this file.
    Item(String),
    Module(Vec<String>),
}

impl Module {
    fn import(&mut self, tree: &UseTree, before: &[String]) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.import(&path.tree, &with(&path.ident)),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.import(tree, before)),
            UseTree::Glob(_) => self.globs.push(before.to_vec()),
            UseTree::Name(name) if name.ident == "self" => {
                if let Some(last) = before.last() {
                    self.imports.insert(last.clone(), before.to_vec());
                }
            }
            UseTree::Name(name) => _ = self.imports.insert(name.ident.to_string(), with(&name.ident)),
            UseTree::Rename(rename) => {
                _ = self.imports.insert(rename.rename.to_string(), with(&rename.ident))
            }
        }
    }

    /// Records the paths in the tokens of a macro call.
    fn note_tokens(&mut self, tokens: proc_macro2::TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                proc_macro2::TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                proc_macro2::TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.note_path(std::mem::take(&mut path));
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                proc_macro2::TokenTree::Group(group) => {
                    self.note_path(std::mem::take(&mut path));
                    self.note_tokens(group.stream());
                }
                _ => self.note_path(std::mem::take(&mut path)),
            }
        }
        self.note_path(path);
    }

    fn note_path(&mut self, path: Vec<String>) {
        if path.len() > 1 {
            self.paths.insert(path);
        }
    }
}

impl Visit<'_> for Module {
    fn visit_path(&mut self, path: &syn::Path) {
        self.note_path(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &syn::Macro) {
        self.visit_path(&call.path);
        self.note_tokens(call.tokens.clone());
    }

    fn visit_item_use(&mut self, item: &syn::ItemUse) {
        // `use` within a function.
        self.import(&item.tree, &[]);
    }
}

/// Returns the file of a child module, and the folder of its children.
fn child(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    let own = folder.join(name);
    let file = folder.join(format!("{name}.rs"));
    (if file.exists() { file } else { own.join("mod.rs") }, own)
}

/// Returns the path of `#[path = "..."]`.
fn told_path(attributes: &[Attribute]) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.path().is_ident("path"))?;
    let syn::Expr::Lit(literal) = &found.meta.require_name_value().ok()?.value else { return None };
    let syn::Lit::Str(text) = &literal.lit else { return None };
    Some(text.value())
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.meta.require_list().is_ok_and(|list| list.tokens.to_string() == "test")
    })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        _ => &[],
    }
}

fn name(item: &Item) -> Option<String> {
    let ident = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        _ => return None,
    };
    Some(ident.to_string())
}
