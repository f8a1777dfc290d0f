//! Bytes to a checked view with a flow key, or the reason why not.
