# Prints as JSON what the Vagrantfile in ARGV[0] asks of each provider. VirtualBox and libvirt are the real plugins;
# stand-ins with the settings of vagrant-qemu and vagrant-parallels take what is asked of these two.
require 'vagrant'
require 'json'

SETTINGS = {
  qemu: %i[arch machine cpu smp memory net_device qemu_dir disk_resize],
  parallels: %i[cpus memory]
}.freeze

SETTINGS.each do |provider, names|
  Class.new(Vagrant.plugin('2')) do
    name provider.to_s
    config(provider, :provider) { Class.new(Vagrant.plugin('2', :config)) { attr_accessor(*names) } }
  end
end

env = Vagrant::Environment.new(cwd: ARGV[0], ui_class: Vagrant::UI::Silent, local_data_path: ARGV[1])
asked = %i[virtualbox libvirt qemu parallels].to_h do |provider|
  config = env.vagrantfile.machine_config(:default, provider, nil, nil, false)[:config]
  settings = config.vm.get_provider_config(provider)
  names = SETTINGS.fetch(provider, { libvirt: %i[cpus memory driver] }.fetch(provider, []))
  folder = config.vm.synced_folders.fetch('/vagrant')
  [provider, { box: config.vm.box, sync: folder[:type], left_alone: folder[:rsync__exclude],
               customizations: (settings.customizations.map(&:last) if provider == :virtualbox),
               **names.to_h { |name| [name, settings&.public_send(name)] } }]
end
puts asked.to_json
