# A provider called qemu without a hypervisor: its machine is an SSH server that runs already. $SSH_PORT, $SSH_KEY.
class StandInConfig < Vagrant.plugin('2', :config)
  attr_accessor :arch, :machine, :cpu, :smp, :memory, :net_device, :qemu_dir, :disk_resize
end

class StandInProvider < Vagrant.plugin('2', :provider)
  STEPS = {
    up: [Vagrant::Action::Builtin::ConfigValidate, Vagrant::Action::Builtin::SyncedFolders],
    ssh_run: [Vagrant::Action::Builtin::SSHRun],
    halt: [Vagrant::Action::Builtin::ConfigValidate]
  }.freeze

  def action(name)
    STEPS[name] && Vagrant::Action::Builder.new.tap { |builder| STEPS[name].each { |step| builder.use(step) } }
  end

  def ssh_info
    { host: '127.0.0.1', port: ENV.fetch('SSH_PORT').to_i, username: 'root', private_key_path: ENV.fetch('SSH_KEY') }
  end

  def state
    Vagrant::MachineState.new(:running, 'running', 'running')
  end
end

class StandInPlugin < Vagrant.plugin('2')
  name 'stand-in'
  provider(:qemu, box_optional: true) { StandInProvider }
  config(:qemu, :provider) { StandInConfig }
end
