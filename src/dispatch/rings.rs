//! Circular lists of indices, with links beside the things that they order: a queue that loses any member in O(1) and allocates
//! nothing per step.

/// No index.
pub(super) const NIL: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Links {
    previous: u32,
    next: u32,
}

/// The links of all lists over one arena; a list itself is only the index of its head, or [`NIL`].
#[derive(Debug, Default)]
pub(super) struct Rings {
    links: Vec<Links>,
}

impl Rings {
    /// Appends `index` to the list that begins with `head`.
    pub(super) fn push_back(&mut self, head: &mut u32, index: u32) {
        let needed = index as usize + 1;
        if self.links.len() < needed {
            let unlinked = Links {
                previous: NIL,
                next: NIL,
            };
            self.links.resize(needed, unlinked);
        }
        if *head == NIL {
            *self.at(index) = Links {
                previous: index,
                next: index,
            };
            *head = index;
            return;
        }
        let last = self.at(*head).previous;
        *self.at(index) = Links {
            previous: last,
            next: *head,
        };
        self.at(last).next = index;
        self.at(*head).previous = index;
    }

    /// Takes `index` out of the list that begins with `head`. If it is the head, its successor becomes the head.
    pub(super) fn remove(&mut self, head: &mut u32, index: u32) {
        let Links { previous, next } = *self.at(index);
        if next == index {
            *head = NIL;
            return;
        }
        self.at(previous).next = next;
        self.at(next).previous = previous;
        if *head == index {
            *head = next;
        }
    }

    /// The one after `index`; after the last one comes the head.
    pub(super) fn next(&self, index: u32) -> u32 {
        self.links[index as usize].next
    }

    fn at(&mut self, index: u32) -> &mut Links {
        &mut self.links[index as usize]
    }
}
