// A worker that sits in run() until it is stopped by the number that it posts.
import { parentPort } from 'node:worker_threads'
import { EventPoll } from '@node-vmm/event-poll'

const poll = new EventPoll()
parentPort!.postMessage(poll.stopFd)
poll.run()
poll.close()
