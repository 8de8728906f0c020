# Starts a program for which ptrace(PTRACE_GETREGSET) fails: User-Mode Linux then saves its processes' floating-point
# registers the old way (PTRACE_GETFPREGS). The new way needs a buffer for all that the processor has, and that of
# Linux 6.1 is too small for one with AMX: "ptrace set fp regs failed, errno = 14". The old way loses AVX registers at
# each page fault, so guests must not use these: a memcpy with AVX-512 was seen to copy zeroes. Perl is in every
# Debian, and can install a seccomp filter by itself.
# usage: perl uml.pl PROGRAM ARGUMENT...
use strict;

my ($SYS_prctl, $SYS_ptrace, $PTRACE_GETREGSET, $EIO) = (157, 101, 0x4204, 5);
my ($PR_SET_NO_NEW_PRIVS, $PR_SET_SECCOMP, $SECCOMP_MODE_FILTER) = (38, 22, 2);
my ($LOAD, $JUMP_IF_EQUAL, $RETURN) = (0x20, 0x15, 0x06);
my ($ERRNO, $ALLOW) = (0x00050000, 0x7fff0000);

# struct sock_filter: code, jump if true, jump if false, operand
my @filter = (
  [$LOAD, 0, 0, 0],                           # the system call's number
  [$JUMP_IF_EQUAL, 0, 3, $SYS_ptrace],
  [$LOAD, 0, 0, 16],                          # its first argument
  [$JUMP_IF_EQUAL, 0, 1, $PTRACE_GETREGSET],
  [$RETURN, 0, 0, $ERRNO | $EIO],
  [$RETURN, 0, 0, $ALLOW],
);
my $code = join '', map { pack 'S C C L', @$_ } @filter;
my $program = pack 'S x6 P', scalar @filter, $code;

syscall($SYS_prctl, $PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 or die "PR_SET_NO_NEW_PRIVS: $!";
syscall($SYS_prctl, $PR_SET_SECCOMP, $SECCOMP_MODE_FILTER, $program) == 0 or die "PR_SET_SECCOMP: $!";
exec @ARGV or die "$ARGV[0]: $!";
