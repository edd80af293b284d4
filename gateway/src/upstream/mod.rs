//! How is it carried?
