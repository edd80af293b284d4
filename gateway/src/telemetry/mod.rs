//! What does an operator see?
