import { ok } from 'node:assert/strict'
import { assembleFilter, installFilter, setNoNewPrivileges, SYSCALL_NAMES } from '@node-vmm/libc'
import { EventPoll } from '../src/index.ts'

// As before Linux 5.11.
setNoNewPrivileges()
installFilter(assembleFilter(SYSCALL_NAMES.filter((name) => name !== 'epoll_pwait2')))
const poll = new EventPoll()
for (let wait = 0; wait < 3; wait++) {
  const started = performance.now()
  poll.poll(2.001)
  // Another moment of the same clock: the kernel's may be a little ahead.
  ok(performance.now() - started >= 2.9)
}
poll.close()
