//! Sessions with PostgreSQL under one real deadline.
