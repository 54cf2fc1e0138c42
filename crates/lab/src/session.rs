//! Sessions with PostgreSQL that are given up at a deadline: a server that accepts and says nothing must not hold us.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::{Client, Config, NoTls};

/// One open session; dropping it closes it.
pub(crate) struct Session {
    pub(crate) client: Client,
    driver: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// The lab's own role in the database it writes to.
pub(crate) fn config(host: &str) -> Config {
    let mut config = Config::new();
    config.host(host).user("app").password("lab-app").dbname("app").application_name("lab");
    config
}

impl Session {
    /// Connects within the limit.
    pub(crate) async fn open(config: &Config, limit: Duration) -> Result<Self> {
        let connecting = timeout(limit, config.connect(NoTls)).await;
        let (client, connection) = connecting.context("no answer to connecting")??;
        let driver = tokio::spawn(async {
            let _ = connection.await;
        });
        Ok(Self { client, driver })
    }

    /// Runs a statement that gives one row of text values, within the limit.
    pub(crate) async fn row(&self, statement: &str, limit: Duration) -> Result<Vec<String>> {
        let messages = timeout(limit, self.client.simple_query(statement)).await.context("no answer")??;
        for message in messages {
            if let tokio_postgres::SimpleQueryMessage::Row(row) = message {
                return Ok((0..row.len()).map(|column| row.get(column).unwrap_or_default().to_owned()).collect());
            }
        }
        bail!("no row")
    }
}

/// A runtime on the calling thread: its sockets are in that thread's network namespace.
pub(crate) fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("failed to start a runtime")
}
