"""A guest of 282 bytes that tells a KVM worth using from one that is not.

`/dev/kvm` may open, report its version and make a VM, and still be of no use: where KVM itself runs in a virtual
machine without nested virtualisation it may interpret the guest's kernel instruction by instruction, a thousand
times slower than a CPU and some hundred times slower than TCG. Ordinary guests then look hung. Only running a guest
tells. This one takes the place of the firmware, so it needs no file beyond QEMU itself and no boot loader:

1. from reset in real mode it enters long mode with paging, in ring 0, as a kernel does;
2. it counts to 2 million there, while the timer's interrupts arrive; the 8th of them (0.44 s) ends the trial;
3. it halts, and the next interrupt must wake it.

A CPU does this in about 60 ms, nearly all of it waiting for that one interrupt; TCG in about 0.09 s. All exits are
by `isa-debug-exit` or, after an unexpected exception, by the reset that `-no-reboot` makes an exit with status 0.
"""

from typing import Final

EXIT_WORKS: Final = 33
"""QEMU's exit status for a guest that ran at speed. Every other status means: do not use this accelerator."""

EXIT_TOO_SLOW: Final = 35
"""QEMU's exit status for a guest that ran, but slower than about 9 million instructions a second."""

PROBE_SECONDS: Final = 5.0
"""How long to wait for QEMU before taking it for hung. The guest itself gives up after 0.44 s of running."""

PROBE_ARGS: Final = (
    "-nodefaults",
    "-no-user-config",
    "-display",
    "none",
    "-no-reboot",
    "-m",
    "16",
    "-cpu",
    "max",
    "-device",
    "isa-debug-exit,iobase=0xf4,iosize=1",
)
"""Arguments of `qemu-system-x86_64`; add `-accel kvm` (or `tcg`) and `-bios FILE`, the file holding `probe_image()`.

`-cpu max` because the guests of NixOS tests have it: QEMU gives up at once where KVM cannot offer that CPU, as it would
for them.
"""

PROBE_SOURCE: Final = """\
        .code16                         # --- real mode, F000:0000
start:  cli
        cld
        xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %es
        mov     $0x1000, %di            # clear 1000-4fff: PML4, PDPT, PD, IDT
        mov     $0x4000, %cx
        rep stosb
        movw    $0x2003, 0x1000         # PML4[0] -> PDPT
        movw    $0x3003, 0x2000         # PDPT[0] and PDPT[3] (for the APIC) -> the one PD
        movw    $0x3003, 0x2018
        movw    $0x0083, 0x3000         # PD[0]: 2 MiB page at 0
        movl    $0xfee00083, 0x3fb8     # PD[503]: 2 MiB page of the local APIC
        movl    $0x00080000 + tick - start, 0x4200      # IDT[32], the only gate:
        movl    $0x000f8e00, 0x4204                     # 0008:000f0000+tick
        lgdtl   %cs:gdtr - start
        lidtl   %cs:idtr - start
        mov     $0x1000, %eax           # paging structures, PAE, EFER.LME, then PE and PG
        mov     %eax, %cr3
        mov     $0x20, %eax
        mov     %eax, %cr4
        mov     $0xc0000080, %ecx
        mov     $0x100, %eax
        xor     %edx, %edx
        wrmsr
        mov     $0x80000001, %eax
        mov     %eax, %cr0
        ljmpl   $8, $0xf0000 + long - start

        .code64                         # --- long mode, ring 0
long:   mov     $16, %eax
        mov     %eax, %ss
        mov     $0x7000, %esp
        mov     $0xfee00000, %edi       # local APIC: on, LINT0 = ExtINT (the PIC)
        movl    $0x1ff, 0xf0(%rdi)
        movl    $0x700, 0x350(%rdi)
        mov     $0x11, %al              # PIC: IRQ 0 is vector 32, all others masked
        out     %al, $0x20
        mov     $0x20, %al
        out     %al, $0x21
        mov     $4, %al
        out     %al, $0x21
        mov     $1, %al
        out     %al, $0x21
        mov     $0xfe, %al
        out     %al, $0x21
        mov     $0x34, %al              # PIT channel 0: a tick each 65,536 clocks = 54.9 ms
        out     %al, $0x43
        xor     %eax, %eax
        out     %al, $0x40
        out     %al, $0x40
        mov     $8, %ebx                # the work must end before the 8th tick (0.44 s)
        mov     $2000000, %ecx
        sti
work:   dec     %ecx
        jnz     work
        mov     $8, %ebx                # then a tick must wake the CPU from hlt
wait:   hlt
        cmp     $8, %ebx
        je      wait
        mov     $0x10, %al              # "works": QEMU exits with 2 * 0x10 + 1
        jmp     quit
tick:   dec     %ebx
        mov     $0x11, %al              # "too slow": 2 * 0x11 + 1
        jz      quit
        mov     $0x20, %al              # end of interrupt (al is free in both loops)
        out     %al, $0x20
        iretq
quit:   out     %al, $0xf4
dead:   jmp     dead

gdt:    .quad   0, 0x00af9b000000ffff, 0x00cf93000000ffff
gdtr:   .word   23
        .long   0xf0000 + gdt - start
idtr:   .word   0x20f
        .long   0x4000
"""
"""The guest's source for GNU as. `as -o p.o` and `objcopy -O binary -j .text p.o` give the bytes below."""

_IMAGE_BYTES = 0x10000  # a firmware image is a multiple of 64 KiB; its end is where the CPU starts: ffff:fff0
_RESET = 0xFFF0
_JUMP = bytes.fromhex("ea000000f0")  # ljmp $0xf000, $0: the image again, below 1 MiB, where `start` is
_CODE = bytes.fromhex(
    """
    fafc31c08ed88ec0bf0010b90040f3aac70600100320c70600200330c70618200330c7060030830066c706b83f8300e0
    fe66c7060042e600080066c7060442008e0f002e660f01160e012e660f011e140166b8001000000f22d866b820000000
    0f22e066b9800000c066b8000100006631d20f3066b8010000800f22c066ea85000f000800b8100000008ed0bc007000
    00bf0000e0fec787f0000000ff010000c7875003000000070000b011e620b020e621b004e621b001e621b0fee621b034
    e64331c0e640e640bb08000000b980841e00fbffc975fcbb08000000f483fb0874fab010eb0cffcbb0117406b020e620
    48cfe6f4ebfe0000000000000000ffff0000009baf00ffff00000093cf001700f6000f000f0200400000
    """
)


def probe_image() -> bytes:
    """Return the probing guest as a firmware image (64 KiB) for QEMU's `-bios`."""
    image = bytearray(_IMAGE_BYTES)
    image[: len(_CODE)] = _CODE
    image[_RESET : _RESET + len(_JUMP)] = _JUMP
    return bytes(image)
