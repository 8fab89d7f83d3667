//! The shape of a cascade, as learning needs it: nodes by number, and where each may go on to.

/// A directed acyclic graph of nodes, all reachable from one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graph {
    entry: usize,
    successors: Vec<Vec<usize>>,
    /// Every node after all its successors.
    bottom_up: Vec<usize>,
}

/// Why numbers make no graph.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GraphError {
    /// A number that no node has.
    #[error("the graph has no node {0}")]
    NoSuchNode(usize),
    /// Jumps form a circle.
    #[error("the graph has a circle through node {0}: jumps must lead to later nodes")]
    Circle(usize),
    /// No path from the entry leads to a node.
    #[error("no jump leads to node {0}")]
    Unreachable(usize),
}

impl Graph {
    /// Checks a graph: `successors` are, node by node, the nodes that it may go on to.
    ///
    /// # Errors
    /// [`GraphError`] for a circle, a node that is not there and one that cannot be reached.
    pub fn try_new(entry: usize, successors: Vec<Vec<usize>>) -> Result<Self, GraphError> {
        let nodes = successors.len();
        let ends = successors.iter().flatten().chain([&entry]);
        if let Some(&end) = ends.into_iter().find(|&&end| end >= nodes) {
            return Err(GraphError::NoSuchNode(end));
        }
        let mut bottom_up = Vec::with_capacity(nodes);
        let mut finished = vec![false; nodes];
        // Depth first; a node met again on its own path closes a circle.
        let mut path = vec![(entry, 0_usize)];
        while let Some(&mut (node, ref mut next)) = path.last_mut() {
            let Some(&to) = successors[node].get(*next) else {
                finished[node] = true;
                bottom_up.push(node);
                path.pop();
                continue;
            };
            *next += 1;
            if path.iter().any(|&(on_path, _)| on_path == to) {
                return Err(GraphError::Circle(to));
            }
            if !finished[to] {
                path.push((to, 0));
            }
        }
        if let Some(node) = finished.iter().position(|&reached| !reached) {
            return Err(GraphError::Unreachable(node));
        }
        Ok(Self {
            entry,
            successors,
            bottom_up,
        })
    }

    /// The node that sees every example.
    pub fn entry(&self) -> usize {
        self.entry
    }

    /// Number of nodes.
    pub fn nodes(&self) -> usize {
        self.successors.len()
    }

    /// Where a node may go on to.
    ///
    /// # Panics
    /// For a node that there is not.
    pub fn successors(&self, node: usize) -> &[usize] {
        &self.successors[node]
    }

    /// All nodes, each after all its successors.
    pub fn bottom_up(&self) -> &[usize] {
        &self.bottom_up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn successors_come_before_their_node() {
        let graph = Graph::try_new(0, vec![vec![1, 2], vec![2], vec![]]).unwrap();
        assert_eq!(graph.bottom_up(), [2, 1, 0]);
    }

    #[test]
    fn what_is_no_graph_is_refused() {
        let refused = |entry, successors| Graph::try_new(entry, successors).unwrap_err();
        assert_eq!(refused(0, vec![]), GraphError::NoSuchNode(0));
        assert_eq!(refused(0, vec![vec![7]]), GraphError::NoSuchNode(7));
        assert_eq!(refused(0, vec![vec![1], vec![0]]), GraphError::Circle(0));
        assert_eq!(refused(0, vec![vec![], vec![]]), GraphError::Unreachable(1));
    }
}
