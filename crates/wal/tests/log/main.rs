//! The log against a disk in memory: everyday use, crashes at every byte, rot, and a naive model.

mod basics;
mod model_disk;
