//! Behaviour of the coordinator as its driver sees it.
