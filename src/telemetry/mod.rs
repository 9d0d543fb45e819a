//! Every metric and span field in one place.
