//! What a client of the cluster says about itself.

use std::sync::Arc;

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// Hears of errors that belong to no call.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watch {
    /// Why the cluster cannot be reached, since the last time that it could. Held to look or to replace only.
    away: Arc<Mutex<Option<String>>>,
    /// Why a broker does not let us in, or we do not trust it, since it did last. As above.
    refused: Arc<Mutex<Option<String>>>,
}

impl Watch {
    /// Why the cluster cannot be reached, as far as is known.
    pub(crate) fn away(&self) -> Option<String> {
        self.away.lock().clone()
    }

    /// Why a broker does not let us in, as far as is known.
    pub(crate) fn refused(&self) -> Option<String> {
        self.refused.lock().clone()
    }

    /// It was reached.
    pub(crate) fn is_back(&self) {
        self.away.lock().take();
        self.refused.lock().take();
    }
}

impl ClientContext for Watch {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => tracing::warn!(facility, "librdkafka: {message}"),
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
                tracing::info!(facility, "librdkafka: {message}");
            }
            RDKafkaLogLevel::Debug => tracing::debug!(facility, "librdkafka: {message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, "librdkafka: {reason}");
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AllBrokersDown) => *self.away.lock() = Some(reason.to_owned()),
            Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SSL) => {
                *self.refused.lock() = Some(reason.to_owned());
            }
            _ => {}
        }
    }
}

impl ConsumerContext for Watch {}
