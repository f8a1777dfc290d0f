//! What NetworkPolicy means: the model of networking.k8s.io/v1 after defaulting, and [`evaluate`], slow and
//! obviously right, against which everything fast is proved.

pub mod model;
pub mod selector;
