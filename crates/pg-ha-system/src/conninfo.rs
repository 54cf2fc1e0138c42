//! libpq connection strings.
