//! The log against a disk in memory: everyday use, crashes at every byte, rot, and a naive model.

mod basics;
mod crash_points;
mod format;
mod model_disk;
mod naive_model;
mod random_runs;
mod recorded_run;
mod rot;
mod scripts;
