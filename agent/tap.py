"""Makes taps: the character device /dev/net/tun, whose ioctls alone can (<linux/if_tun.h>).

Rules
1. A tap belongs to the namespace of the thread that opens the device, so that is opened in the pod's; no process is
   started for it.
2. A tap lives no longer than its descriptor until it is told to persist, which is the last that is done: a crash
   before that leaves nothing, and one that persists bears its mark already.
3. A link that exists is never taken over: without IFF_TUN_EXCL the kernel would hand out the tap that has the name.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

from agent import links, netns, rtnl
from agent.devices.contract import name_taken
from cni import errors

DRIVER = Path("/dev/net/tun")
_TUNSETIFF, _TUNSETPERSIST, _TUNSETOWNER, _TUNSETGROUP = 0x400454CA, 0x400454CB, 0x400454CC, 0x400454CE
_TUNGETIFF = 0x800454D2
_IFF_TAP, _IFF_MULTI_QUEUE, _IFF_NO_PI, _IFF_TUN_EXCL = 0x0002, 0x0100, 0x1000, 0x8000
_IFF_PERSIST, _IFF_VNET_HDR = 0x0800, 0x4000
_REQUEST = struct.Struct("16sH22x")  # struct ifreq


def what_is_in_the_way() -> str:
    """Return why no tap can be made; "": nothing."""
    return "" if DRIVER.is_char_device() else f"{DRIVER} is not there (the agent's container has to be given it)"


def create(pod: rtnl.Socket, netns_fd: int, step: links.CreateTap) -> None:
    """Make the tap of the step. `pod`: a socket in the namespace of `netns_fd`.

    Raises CNIError: 7 where the name is taken, 50 without the driver, 999 for any other refusal of the kernel.
    """
    fd = _opened(netns_fd)
    try:
        _attach(fd, step)
        if step.owner is not None:
            fcntl.ioctl(fd, _TUNSETOWNER, step.owner)
        if step.group is not None:
            fcntl.ioctl(fd, _TUNSETGROUP, step.group)
        index = pod.get(rtnl.GETLINK, {}, [("IFLA_IFNAME", step.name)]).index
        pod.do(rtnl.NEWLINK, {"index": index}, step.attributes)
        fcntl.ioctl(fd, _TUNSETPERSIST, 1)
    except (OSError, rtnl.KernelError) as problem:
        raise errors.CNIError(errors.Code.INTERNAL, f"cannot create tap {step.name}", str(problem)) from None
    finally:
        os.close(fd)


def opened(netns_fd: int, name: str) -> int:
    """Return a descriptor of the tap of that name, for a program that carries its frames with their virtio headers.

    Raises CNIError: 7 where another program has it, 50 without the driver, 999 for any other refusal of the kernel, and
    where there is no such tap.
    """
    fd = _opened(netns_fd)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, _REQUEST.pack(name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR))
        _refuse_new(fd)
    except OSError as problem:
        os.close(fd)
        if problem.errno == errno.EBUSY:
            message = f"tap {name} is in use by another program"
            raise errors.CNIError(errors.Code.INVALID_CONFIG, message) from None
        raise errors.CNIError(errors.Code.INTERNAL, f"cannot open tap {name}", str(problem)) from None
    return fd


def _refuse_new(fd: int) -> None:
    """Raise OSError where there was no such tap: the kernel has just made one, which goes with the descriptor."""
    _, flags = _REQUEST.unpack(fcntl.ioctl(fd, _TUNGETIFF, bytes(_REQUEST.size)))
    if not flags & _IFF_PERSIST:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))


def _opened(netns_fd: int) -> int:
    if problem := what_is_in_the_way():
        raise errors.CNIError(errors.Code.NOT_AVAILABLE, problem)
    with netns.entered(netns_fd):
        try:
            return os.open(DRIVER, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise errors.CNIError(errors.Code.NOT_AVAILABLE, f"cannot open {DRIVER}", str(error)) from None


def _attach(fd: int, step: links.CreateTap) -> None:
    flags = _IFF_TAP | _IFF_NO_PI | _IFF_TUN_EXCL | (_IFF_MULTI_QUEUE if step.multi_queue else 0)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, _REQUEST.pack(step.name.encode(), flags))
    except OSError as problem:
        if problem.errno != errno.EBUSY:
            raise
        raise name_taken(step.name) from None
