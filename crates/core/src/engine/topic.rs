//! Topics, as far as every engine has them.

/// A topic as a flow or an application wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    /// Its name, by Kafka's rules.
    pub name: String,
    /// At least 1; fewer are refused.
    pub partitions: i32,
    /// Kafka's property names and values, such as `("cleanup.policy", "compact")`. An engine refuses those that it does
    /// not have.
    pub configs: Vec<(String, String)>,
    /// How many nodes are to have a copy; as many as the engine is set up for unless it is given.
    pub replicas: Option<i32>,
}

impl TopicSpec {
    /// A topic with the engine's default settings.
    pub fn new(name: impl Into<String>, partitions: i32) -> Self {
        Self { name: name.into(), partitions, configs: Vec::new(), replicas: None }
    }

    /// The same with one more setting.
    #[must_use]
    pub fn config(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.configs.push((name.into(), value.into()));
        self
    }

    /// The same on so many nodes.
    #[must_use]
    pub fn replicas(mut self, replicas: i32) -> Self {
        self.replicas = Some(replicas);
        self
    }
}

/// What [`super::Engine::ensure_topic`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ensured {
    /// It was not there.
    Created,
    /// It was there, with as many partitions.
    Existed,
}
