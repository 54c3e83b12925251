. /source/tests/deploy/machine.sh
export API_KEY=key-of-the-machine API_SECRET=secret-of-the-machine
check install section Install
check configure section Configure
check exchange exchange --rate 50
check start section Start
echo done
