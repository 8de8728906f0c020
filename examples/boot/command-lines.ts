/** What to boot, the same for every VMM. */
export interface Machine {
  /** The vhost-user-blk server's socket. */
  readonly socket: string
  /** The kernel's file; User-Mode Linux is one itself. */
  readonly kernel: string
  /** An initramfs. @default none: the kernel has its drivers built in */
  readonly initrd: string | undefined
  /** Mebibytes. */
  readonly memory: number
  readonly processors: number
  /** What the kernel is told: which disk is the root file system, for instance. */
  readonly parameters: string
  /** QEMU's accelerator, `kvm` or `tcg`. The others have nothing but KVM. */
  readonly accelerator: string
}

/** How to start a VMM. */
export interface CommandLine {
  readonly program: string
  readonly arguments: readonly string[]
  /** A file that it reads. */
  readonly file?: { readonly path: string, readonly text: string }
}

/**
 * The VMMs, by name. In each the guest's memory is shared with the server, which serves the requests in it, and the disk
 * has one queue.
 */
export const commandLines: Readonly<Record<string, (machine: Machine) => CommandLine>> = {
  qemu: ({ socket, kernel, initrd, memory, processors, parameters, accelerator }) => ({
    program: 'qemu-system-x86_64',
    arguments: [
      '-accel', accelerator, '-cpu', accelerator.startsWith('kvm') ? 'host' : 'max', '-smp', `${processors}`,
      // share=on: a memfd that is not shared would be copied on the guest's first write, unseen by the server.
      '-machine', 'q35,memory-backend=memory', '-m', `${memory}M`,
      '-object', `memory-backend-memfd,id=memory,size=${memory}M,share=on`,
      // num-queues: else as many as processors, and a server with fewer is refused.
      '-chardev', `socket,id=disk,path=${socket}`,
      '-device', 'vhost-user-blk-pci,chardev=disk,num-queues=1',
      '-nodefaults', '-display', 'none', '-no-reboot', '-serial', 'mon:stdio',
      '-kernel', kernel, ...(initrd === undefined ? [] : ['-initrd', initrd]),
      '-append', `console=ttyS0 ${parameters}`
    ]
  }),

  'cloud-hypervisor': ({ socket, kernel, initrd, memory, processors, parameters }) => ({
    program: 'cloud-hypervisor',
    arguments: [
      '--cpus', `boot=${processors}`, '--memory', `size=${memory}M,shared=on`,
      '--disk', `vhost_user=on,socket=${socket},num_queues=1`,
      '--console', 'off', '--serial', 'tty',
      '--kernel', kernel, ...(initrd === undefined ? [] : ['--initramfs', initrd]),
      '--cmdline', `console=ttyS0 ${parameters}`
    ]
  }),

  // Its memory is always shared, the first serial port is the console, and it has as many queues as the server says.
  crosvm: ({ socket, kernel, initrd, memory, processors, parameters }) => ({
    program: 'crosvm',
    arguments: [
      'run', '--cpus', `${processors}`, '--mem', `${memory}`,
      '--vhost-user', `block,socket=${socket}`,
      ...(initrd === undefined ? [] : ['--initrd', initrd]),
      '-p', parameters, kernel
    ]
  }),

  firecracker: (machine) => ({
    program: 'firecracker',
    arguments: ['--no-api', '--config-file', `${machine.socket}.json`],
    file: { path: `${machine.socket}.json`, text: `${JSON.stringify(firecrackerConfiguration(machine), null, 2)}\n` }
  }),

  // A Linux kernel that is an ordinary process; 2 is virtio's number for a disk. No KVM, one processor.
  uml: ({ socket, kernel, initrd, memory, parameters }) => ({
    program: kernel,
    arguments: [
      `mem=${memory}M`, ...(initrd === undefined ? [] : [`initrd=${initrd}`]), `virtio_uml.device=${socket}:2`,
      'con=null', 'con0=fd:0,fd:1', parameters
    ]
  })
}

/** Its memory is shared as soon as a drive has a socket. What it has one file for, its API takes piece by piece. */
function firecrackerConfiguration ({ socket, kernel, initrd, memory, processors, parameters }: Machine): object {
  return {
    'boot-source': {
      kernel_image_path: kernel,
      ...(initrd !== undefined && { initrd_path: initrd }),
      boot_args: `console=ttyS0 reboot=k panic=1 pci=off ${parameters}`
    },
    // Writeback: else the guest is offered no flush, and the server has to make each write stable. Neither path_on_host nor
    // is_read_only may stand beside a socket. The root device is among the parameters.
    drives: [{ drive_id: 'disk', socket, is_root_device: false, cache_type: 'Writeback' }],
    'machine-config': { vcpu_count: processors, mem_size_mib: memory }
  }
}
