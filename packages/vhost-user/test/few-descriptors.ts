import { equal, match } from 'node:assert/strict'
import { closeSync } from 'node:fs'
import { join } from 'node:path'
import { connectUnix, unixSocket } from '@node-vmm/libc'
import { eventually } from '../../../test/support/eventually.ts'
import { takeDescriptors } from '../../../test/support/few-descriptors.ts'
import { temporaryFolder } from '../../../test/support/temporary.ts'
import { FrontEnd, listen } from '../src/index.ts'
import { RecordingDevice } from './support/session.ts'

const path = join(temporaryFolder(), 'socket')
const problems: string[] = []
const listener = listen({ path, device: new RecordingDevice(), onProblem: ({ message }) => problems.push(message) })
const client = unixSocket()
const taken = takeDescriptors()
connectUnix(client, path)
await eventually('it was tried again', () => problems.length >= 3)
match(problems[0]!, /^accept4 .*EMFILE/)
match(problems[1]!, /^epoll_create1: EMFILE/)
for (const fd of taken) closeSync(fd)
const front = new FrontEnd(client)
equal(await front.getQueueNum(), 2)
front.close()
equal(await listener.close(), undefined)
