//! Cycles of a directed graph.

use std::collections::{BTreeMap, BTreeSet};

/// Imported files, by file.
pub(super) type Graph = BTreeMap<String, BTreeSet<String>>;

/// Returns the strongly connected components of more than one file, the largest first (Tarjan 1972).
pub(super) fn cycles(graph: &Graph) -> Vec<Vec<String>> {
    let mut search =
        Search { graph, next: 0, visited: BTreeMap::new(), path: Vec::new(), cycles: Vec::new() };
    for file in graph.keys() {
        if !search.visited.contains_key(file.as_str()) {
            search.visit(file);
        }
    }
    search.cycles.sort_by_key(|cycle| std::cmp::Reverse(cycle.len()));
    search.cycles
}

struct Search<'a> {
    graph: &'a Graph,
    next: usize,
    /// Index in the order of visits and lowest reachable index, by file; `None` once the component is known.
    visited: BTreeMap<&'a str, Option<(usize, usize)>>,
    path: Vec<&'a str>,
    cycles: Vec<Vec<String>>,
}

impl<'a> Search<'a> {
    /// Returns the lowest index that is reachable from the file.
    fn visit(&mut self, file: &'a str) -> usize {
        let number = self.next;
        let mut lowest = number;
        self.next += 1;
        self.visited.insert(file, Some((number, number)));
        self.path.push(file);
        for import in self.graph.get(file).into_iter().flatten() {
            match self.visited.get(import.as_str()) {
                None if self.graph.contains_key(import) => lowest = lowest.min(self.visit(import)),
                Some(Some((other, _))) => lowest = lowest.min(*other),
                _ => {}
            }
        }
        if lowest == number {
            let start = self.path.iter().rposition(|other| *other == file).unwrap_or(0);
            let component = self.path.split_off(start);
            for member in &component {
                self.visited.insert(member, None);
            }
            if component.len() > 1 {
                self.cycles.push(component.into_iter().map(str::to_owned).collect());
            }
        } else {
            self.visited.insert(file, Some((number, lowest)));
        }
        lowest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(edges: &[(&str, &[&str])]) -> Graph {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        edges.iter().map(|(file, imports)| ((*file).to_owned(), names(imports))).collect()
    }

    #[test]
    fn cycles_are_found_in_graphs_and_not_in_trees() {
        let tree = graph(&[("a", &["b", "c"]), ("b", &["c"]), ("c", &[])]);
        assert_eq!(cycles(&tree), Vec::<Vec<String>>::new());
        let two = graph(&[("a", &["b"]), ("b", &["c", "d"]), ("c", &["a"]), ("d", &["e"]), ("e", &["d"])]);
        let mut found = cycles(&two);
        found.iter_mut().for_each(|cycle| cycle.sort());
        assert_eq!(found, [vec!["a", "b", "c"], vec!["d", "e"]]);
    }
}
