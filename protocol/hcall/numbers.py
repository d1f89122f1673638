"""Hypercall numbers: `(class id << 16) | call`.

Class 0 is the core, listed here.  In every other class 1-4 are the verbs and a class's own calls start at 16;
the reply to OPEN names them all, so that no driver knows a number.
"""

from __future__ import annotations

from typing import Final

CLASS_SHIFT: Final = 16
READ, WRITE, SYNC, MAP = 1, 2, 3, 4
VERBS: Final = {"read": READ, "write": WRITE, "sync": SYNC, "map": MAP}
FIRST_CALL: Final = 16
FIRST_ASSIGNED_CLASS: Final = 0x8000  # for models without a device id, and for ids that collide

# The core.  "node" and "open" say which sort of handle the body carries; "none" means 0.
#                arguments              handle  answers
NOP = 16  #                             none    None
FIRST = 17  #                           none    the root's node handle (IEEE 1275: peer of 0)
CHILD = 18  #                           node    its first child, 0 = none
NEXT = 19  #                            node    its next sibling, 0 = none
PARENT = 20  #                          node    its parent, 0 = it is the root
FIND = 21  #     path                   none    the node at "/path/of/names"
INFO = 22  #                            node    (name, compatible strings, (vendor, device))
GETPROP = 23  #  name                   node    the property's value; NO_MATCH if there is none
NEXTPROP = 24  # name                   node    the next property's name, "" = no more; "" asks for the first
CHANGES = 25  #  since                  none    (now, changes or None = rescan)
OPEN = 26  #     cookie                 node    (open handle, calls, vectors, features)
CLOSE = 27  #                           open    0
GET_STATUS = 28  #                      open    the device status byte (virtio 1.2, 2.1)
SET_STATUS = 29  # status               open    the status as it stands now; 0 resets
GET_FEATURES = 30  #                    open    the feature bits that the device offers
SET_FEATURES = 31  # bits               open    None
SET_MASK = 32  # vectors                open    the mask before; bit v set = vector v gives no hints
POLL = 33  #     after                  none    ((open handle, (count by vector, ...)), ...)
ADD_MEMORY = 34  # address, size, fd id none    None; the memfd came over the fd lane
REMOVE_MEMORY = 35  # address           none    None
DETACH = 36  #                          none    None; all is closed, and loss of the link ends the session
ADD_PART = 37  # address, size, offset, fd id  none  None; ADD_MEMORY of a part of a memfd
LIST = 38  #     after                  none    (next, groups of nodes): those after a handle, 0 = from the first on
CONFIG_READ = 40  # address, offset, size  none  what stands there, all ones where nothing is
CONFIG_WRITE = 41  # and value          none    None
STSCH = 44  #    subchannel              none    (condition code, what is known of it: `formats.ccw`)
SSCH = 45  #     subchannel, parameter, program  none  the condition code; the program is begun
TSCH = 46  #     subchannel              none    (condition code, the status, which is pending no more)
CLAIM = 48  #    class, after, cookie    none    (node, open handle, calls, vectors, features)
ADD_RING = 52  # see below               open    the ring's handle
REMOVE_RING = 53  #                     ring    None; it takes nothing more
KICK = 54  #                            ring    None; there are calls in it

# ADD_RING takes the queue's size, the addresses of its descriptors, its available and its used ring, feature bits, and
# two numbers of eventfds that came over the fd lane (`formats.lanes.ring`): what is written to for a kick, and when
# there are answers.  0: by KICK; by an IRQ of the ring's handle, vector 0.

#: Their names, by number; some numbers are free.
CORE: Final[dict[int, str]] = dict(enumerate((
    "NOP", "FIRST", "CHILD", "NEXT", "PARENT", "FIND", "INFO", "GETPROP", "NEXTPROP", "CHANGES", "OPEN", "CLOSE",
    "GET_STATUS", "SET_STATUS", "GET_FEATURES", "SET_FEATURES", "SET_MASK", "POLL", "ADD_MEMORY", "REMOVE_MEMORY",
    "DETACH", "ADD_PART",
), NOP)) | {
    LIST: "LIST", CONFIG_READ: "CONFIG_READ", CONFIG_WRITE: "CONFIG_WRITE", STSCH: "STSCH", SSCH: "SSCH",
    TSCH: "TSCH", CLAIM: "CLAIM", ADD_RING: "ADD_RING", REMOVE_RING: "REMOVE_RING", KICK: "KICK",
}  # fmt: skip

POLL_LIMIT: Final = 32  # open handles in one answer of POLL
CHANGES_LIMIT: Final = 32  # changes in one answer of CHANGES
CHILDREN, AVAILABLE = 0, 1  # the vectors of a node: what is below it changed; of the root, CLAIM may be tried again
MAX_VECTORS: Final = 32  # of a device: the bits of SET_MASK
ADDED, LEAVING, REMOVED = 1, 2, 3  # what a change is: plugged; unplug was asked for; gone
