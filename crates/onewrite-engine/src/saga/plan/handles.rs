//! What is known of steps while a saga is stated: their outputs, as inputs of later ones.

use std::{fmt, marker::PhantomData};

use onewrite_core::saga::Mapping;
use serde::de::DeserializeOwned;

/// What is known once a step is done: its output, as an input of later ones.
pub struct Out<T> {
    /// None for the saga's input.
    pub(super) step: Option<usize>,
    of: PhantomData<fn() -> T>,
}

impl<T> Out<T> {
    pub(super) fn new(step: Option<usize>) -> Self {
        Self { step, of: PhantomData }
    }
}

impl<T> Out<T> {
    /// A part of it: the value at this JSON Pointer (RFC 6901), `"/customer/id"`. That there is one, and of
    /// this type, shows only when the saga runs: a step that is to be given it fails otherwise.
    #[must_use]
    pub fn at<P>(self, pointer: &'static str) -> Part<P> {
        Part { step: self.step, pointer, of: PhantomData }
    }
}

/// A part of what is known once a step is done.
pub struct Part<T> {
    step: Option<usize>,
    pointer: &'static str,
    of: PhantomData<fn() -> T>,
}

impl<T> Clone for Part<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Part<T> {}

impl<T: DeserializeOwned + Send + 'static> Handles for Part<T> {
    type Value = T;

    fn mapping(&self, at: &dyn Fn(Option<usize>) -> Mapping) -> Mapping {
        match at(self.step) {
            Mapping::At(whole) => Mapping::At(whole + self.pointer),
            other => other,
        }
    }

    fn steps(&self) -> Vec<usize> {
        self.step.into_iter().collect()
    }
}

impl<T> Clone for Out<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Out<T> {}

impl<T> fmt::Debug for Out<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Out({:?})", self.step)
    }
}

/// One handle, or a tuple of handles: what a step is given.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not the output of a step",
    note = "settle the step first: `.compensate(function)` or `.no_compensation(\"because …\")`"
)]
pub trait Handles: Copy {
    /// What the step's function takes.
    type Value: DeserializeOwned + Send + 'static;

    #[doc(hidden)]
    fn mapping(&self, at: &dyn Fn(Option<usize>) -> Mapping) -> Mapping;

    #[doc(hidden)]
    fn steps(&self) -> Vec<usize>;
}

impl<T: DeserializeOwned + Send + 'static> Handles for Out<T> {
    type Value = T;

    fn mapping(&self, at: &dyn Fn(Option<usize>) -> Mapping) -> Mapping {
        at(self.step)
    }

    fn steps(&self) -> Vec<usize> {
        self.step.into_iter().collect()
    }
}

macro_rules! handles {
    ($($name:ident $index:tt),*) => {
        impl<$($name: Handles),*> Handles for ($($name,)*) {
            type Value = ($($name::Value,)*);

            fn mapping(&self, at: &dyn Fn(Option<usize>) -> Mapping) -> Mapping {
                Mapping::Array(vec![$(self.$index.mapping(at)),*])
            }

            fn steps(&self) -> Vec<usize> {
                [$(self.$index.steps()),*].concat()
            }
        }
    };
}

impl Handles for () {
    type Value = ();

    fn mapping(&self, _: &dyn Fn(Option<usize>) -> Mapping) -> Mapping {
        Mapping::Array(Vec::new())
    }

    fn steps(&self) -> Vec<usize> {
        Vec::new()
    }
}

handles!(A 0);
handles!(A 0, B 1);
handles!(A 0, B 1, C 2);
handles!(A 0, B 1, C 2, D 3);
handles!(A 0, B 1, C 2, D 3, E 4);
handles!(A 0, B 1, C 2, D 3, E 4, F 5);
