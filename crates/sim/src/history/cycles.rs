//! Cycles in a graph.

/// The strongly connected components of `edges` (from each node to others) that have a cycle in them: Tarjan 1972, without
/// recursion, since a chain of transactions may be long.
pub(super) fn cycles(edges: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let mut search = Search {
        edges,
        next: 0,
        index: vec![usize::MAX; edges.len()],
        low: vec![0; edges.len()],
        on_stack: vec![false; edges.len()],
        stack: Vec::new(),
        found: Vec::new(),
    };
    for node in 0..edges.len() {
        if search.index[node] == usize::MAX {
            search.visit(node);
        }
    }
    search.found
}

struct Search<'a> {
    edges: &'a [Vec<usize>],
    next: usize,
    index: Vec<usize>,
    low: Vec<usize>,
    on_stack: Vec<bool>,
    stack: Vec<usize>,
    found: Vec<Vec<usize>>,
}

impl Search<'_> {
    fn visit(&mut self, root: usize) {
        // Nodes on the way, and which of their edges comes next.
        let mut way = vec![(root, 0)];
        self.enter(root);
        while let Some((node, edge)) = way.last_mut() {
            let node = *node;
            if let Some(to) = self.edges[node].get(*edge).copied() {
                *edge += 1;
                if self.index[to] == usize::MAX {
                    self.enter(to);
                    way.push((to, 0));
                } else if self.on_stack[to] {
                    self.low[node] = self.low[node].min(self.index[to]);
                }
                continue;
            }
            way.pop();
            if let Some((before, _)) = way.last() {
                self.low[*before] = self.low[*before].min(self.low[node]);
            }
            if self.low[node] == self.index[node] {
                self.leave(node);
            }
        }
    }

    fn enter(&mut self, node: usize) {
        self.index[node] = self.next;
        self.low[node] = self.next;
        self.next += 1;
        self.stack.push(node);
        self.on_stack[node] = true;
    }

    fn leave(&mut self, root: usize) {
        let from = self.stack.iter().rposition(|node| *node == root).expect("it was entered");
        let component = self.stack.split_off(from);
        for node in &component {
            self.on_stack[*node] = false;
        }
        if component.len() > 1 || self.edges[root].contains(&root) {
            self.found.push(component);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(edges: &[Vec<usize>]) -> Vec<Vec<usize>> {
        let mut found = cycles(edges);
        found.iter_mut().for_each(|component| component.sort_unstable());
        found.sort();
        found
    }

    #[test]
    fn cycles_are_found_and_nothing_else_is() {
        assert_eq!(sorted(&[vec![1, 2], vec![2], vec![]]), Vec::<Vec<usize>>::new());
        assert_eq!(sorted(&[vec![0]]), [[0]]);
        assert_eq!(sorted(&[vec![1], vec![2], vec![0], vec![0]]), [[0, 1, 2]]);
        assert_eq!(sorted(&[vec![1], vec![0, 2], vec![3], vec![2]]), [[0, 1], [2, 3]]);
    }

    #[test]
    fn a_long_chain_needs_no_deep_stack() {
        let mut edges: Vec<Vec<usize>> = (1..=200_000).map(|next| vec![next]).collect();
        edges.push(vec![]);
        assert!(cycles(&edges).is_empty());
        edges[200_000].push(0);
        assert_eq!(cycles(&edges)[0].len(), 200_001);
    }
}
