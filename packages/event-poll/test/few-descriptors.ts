import { equal } from 'node:assert/strict'
import { leavesNoDescriptor } from '../../../test/support/few-descriptors.ts'
import { EventPoll } from '../src/index.ts'

new EventPoll().close()
equal(leavesNoDescriptor('EventPoll', () => new EventPoll()), 2)
