//! What is written down before anything is done?
