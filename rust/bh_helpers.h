/* SPDX-License-Identifier: GPL-2.0 */
/* The functions that bh.rs calls. One file of each module that uses it includes this. */
#include <linux/spinlock.h>

void mgmt_helper_spin_lock_bh(spinlock_t *lock);
bool mgmt_helper_spin_trylock_bh(spinlock_t *lock);
void mgmt_helper_spin_unlock_bh(spinlock_t *lock);

void mgmt_helper_spin_lock_bh(spinlock_t *lock)
{
	spin_lock_bh(lock);
}

bool mgmt_helper_spin_trylock_bh(spinlock_t *lock)
{
	return spin_trylock_bh(lock);
}

void mgmt_helper_spin_unlock_bh(spinlock_t *lock)
{
	spin_unlock_bh(lock);
}
